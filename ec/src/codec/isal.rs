//! ISA-L behind safe functions.

use std::ffi::c_int;
use std::ops::Range;

use oriel_isal_sys as isal;

use super::isa::Isa;
use super::{Coefficients, TABLE_BYTES_MAX};
use crate::limits::{DATA_SHARDS_MAX, PARITY_SHARDS_MAX};

/// The functions of one instruction set. A value exists only where the CPU has it: see [`Kernel::new`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Kernel {
    tables: isal::InitTablesFn,
    encode: isal::EncodeFn,
    update: isal::UpdateFn,
}

/// Coefficients expanded for a kernel.
#[derive(Clone)]
#[repr(align(64))]
pub(super) struct Tables {
    expanded: [u8; TABLE_BYTES_MAX],
}

impl Tables {
    pub(super) const fn empty() -> Self {
        Self {
            expanded: [0; TABLE_BYTES_MAX],
        }
    }
}

const _: () = assert!(TABLE_BYTES_MAX == isal::TABLE_BYTES * DATA_SHARDS_MAX * PARITY_SHARDS_MAX);

impl Kernel {
    /// The functions for an instruction set, if ISA-L has them and the CPU runs them.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn new(isa: Isa) -> Option<Self> {
        let kernel = match isa {
            Isa::Portable => return None,
            Isa::Avx2 => Self {
                tables: isal::ec_init_tables_base,
                encode: isal::ec_encode_data_avx2,
                update: isal::ec_encode_data_update_avx2,
            },
            Isa::Avx512 => Self {
                tables: isal::ec_init_tables_base,
                encode: isal::ec_encode_data_avx512,
                update: isal::ec_encode_data_update_avx512,
            },
            Isa::Avx2Gfni => Self {
                tables: isal::ec_init_tables_gfni,
                encode: isal::ec_encode_data_avx2_gfni,
                update: isal::ec_encode_data_update_avx2_gfni,
            },
            Isa::Avx512Gfni => Self {
                tables: isal::ec_init_tables_gfni,
                encode: isal::ec_encode_data_avx512_gfni,
                update: isal::ec_encode_data_update_avx512_gfni,
            },
        };
        isa.present().then_some(kernel)
    }

    /// ISA-L's per-set functions are x86 only.
    #[cfg(not(target_arch = "x86_64"))]
    pub(super) fn new(_isa: Isa) -> Option<Self> {
        None
    }

    /// Expands coefficients.
    pub(super) fn expand(&self, coefficients: &Coefficients, tables: &mut Tables) {
        let (inputs, rows) = (coefficients.inputs, coefficients.rows);
        assert!(inputs <= DATA_SHARDS_MAX && rows <= PARITY_SHARDS_MAX);
        assert!(coefficients.bytes.len() >= inputs * rows);
        // SAFETY: the assertions above hold `inputs * rows` coefficients readable, and the tables, of
        // `TABLE_BYTES * DATA_SHARDS_MAX * PARITY_SHARDS_MAX` bytes, writable for as many; the CPU has the instruction
        // set by `Kernel::new`.
        unsafe {
            (self.tables)(
                inputs as c_int,
                rows as c_int,
                coefficients.bytes.as_ptr(),
                tables.expanded.as_mut_ptr(),
            );
        }
    }

    /// Writes to `range` of each output the sum of the inputs times their coefficients. The tables must have been expanded
    /// by the same kernel for as many inputs and outputs; other tables give wrong bytes.
    pub(super) fn encode(
        &self,
        tables: &Tables,
        inputs: &[&[u8]],
        outputs: &mut [&mut [u8]],
        range: Range<usize>,
    ) {
        assert!(range.start <= range.end && !inputs.is_empty());
        assert!(inputs.len() <= DATA_SHARDS_MAX && outputs.len() <= PARITY_SHARDS_MAX);
        let length = c_int::try_from(range.end - range.start).expect("a tile is short");
        // Slicing checks that every buffer covers the range, and borrowing rules that no output overlaps another buffer.
        let mut sources = [std::ptr::null(); DATA_SHARDS_MAX];
        for (source, input) in sources.iter_mut().zip(inputs) {
            *source = input[range.clone()].as_ptr();
        }
        let mut targets = [std::ptr::null_mut(); PARITY_SHARDS_MAX];
        for (target, output) in targets.iter_mut().zip(outputs.iter_mut()) {
            *target = output[range.clone()].as_mut_ptr();
        }
        // SAFETY: `inputs.len()` sources are readable and `outputs.len()` targets writable for `length` bytes by the slicing
        // above, and the borrows live beyond the call; the tables are long enough for the largest counts, which the
        // assertions keep; the CPU has the instruction set by `Kernel::new`.
        unsafe {
            (self.encode)(
                length,
                inputs.len() as c_int,
                outputs.len() as c_int,
                tables.expanded.as_ptr(),
                sources.as_ptr(),
                targets.as_ptr(),
            );
        }
    }

    /// Adds to `outputs` input number `column` of `columns` times its coefficients; all have the same length.
    pub(super) fn update(
        &self,
        tables: &Tables,
        columns: usize,
        column: usize,
        input: &[u8],
        outputs: &mut [&mut [u8]],
    ) {
        assert!(
            column < columns && columns <= DATA_SHARDS_MAX && outputs.len() <= PARITY_SHARDS_MAX
        );
        let length = c_int::try_from(input.len()).expect("a piece is shorter than a stripe unit");
        let mut targets = [std::ptr::null_mut(); PARITY_SHARDS_MAX];
        for (target, output) in targets.iter_mut().zip(outputs.iter_mut()) {
            *target = output[..input.len()].as_mut_ptr();
        }
        // SAFETY: the input is readable and the targets writable for `length` bytes by the slicing above; the tables are
        // long enough for the largest counts, which the assertions keep; the CPU has the set by `Kernel::new`.
        unsafe {
            (self.update)(
                length,
                columns as c_int,
                outputs.len() as c_int,
                column as c_int,
                tables.expanded.as_ptr(),
                input.as_ptr(),
                targets.as_ptr(),
            );
        }
    }
}

/// Carries the state of a CRC32C over more bytes with the best instructions of the CPU.
pub(super) fn crc32c(mut state: u32, bytes: &[u8]) -> u32 {
    for part in bytes.chunks(1 << 30) {
        // SAFETY: the pointer and the length are those of one slice, and the length, at most 2^30, fits a C int.
        state = unsafe { isal::crc32_iscsi(part.as_ptr(), part.len() as c_int, state) };
    }
    state
}
