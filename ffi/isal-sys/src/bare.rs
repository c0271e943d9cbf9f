//! ISA-L as a C program calls it: tables once, then one call over whole buffers.
//!
//! This is the peer that benchmarks compare with. It adds nothing to ISA-L but the checks of lengths that make the call
//! safe, once for each call.

use std::ffi::c_int;

use crate::{
    EncodeFn, InitTablesFn, TABLE_BYTES, UpdateFn, ec_encode_data, ec_encode_data_update,
    ec_init_tables,
};

/// The most inputs and outputs of one call.
pub const BUFFERS_MAX: usize = 32;

/// The functions of one instruction set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Set {
    /// What ISA-L chooses by the CPU.
    Dispatched,
    /// AVX2.
    Avx2,
    /// AVX-512.
    Avx512,
    /// AVX2 and GFNI.
    Avx2Gfni,
    /// AVX-512 and GFNI.
    Avx512Gfni,
}

impl Set {
    /// The functions, if the CPU runs them.
    fn functions(self) -> Option<(InitTablesFn, EncodeFn, UpdateFn)> {
        #[cfg(target_arch = "x86_64")]
        {
            let avx512 =
                is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512vl");
            let gfni = is_x86_feature_detected!("gfni");
            let avx2 = is_x86_feature_detected!("avx2");
            let plain: InitTablesFn = crate::ec_init_tables_base;
            let affine: InitTablesFn = crate::ec_init_tables_gfni;
            let (present, functions): (bool, (InitTablesFn, EncodeFn, UpdateFn)) = match self {
                Self::Dispatched => (
                    true,
                    (ec_init_tables, ec_encode_data, ec_encode_data_update),
                ),
                Self::Avx2 => (
                    avx2,
                    (
                        plain,
                        crate::ec_encode_data_avx2,
                        crate::ec_encode_data_update_avx2,
                    ),
                ),
                Self::Avx512 => (
                    avx512,
                    (
                        plain,
                        crate::ec_encode_data_avx512,
                        crate::ec_encode_data_update_avx512,
                    ),
                ),
                Self::Avx2Gfni => (
                    avx2 && gfni,
                    (
                        affine,
                        crate::ec_encode_data_avx2_gfni,
                        crate::ec_encode_data_update_avx2_gfni,
                    ),
                ),
                Self::Avx512Gfni => (
                    avx512 && gfni,
                    (
                        affine,
                        crate::ec_encode_data_avx512_gfni,
                        crate::ec_encode_data_update_avx512_gfni,
                    ),
                ),
            };
            present.then_some(functions)
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            (self == Self::Dispatched).then_some((
                ec_init_tables,
                ec_encode_data,
                ec_encode_data_update,
            ))
        }
    }
}

/// Tables for so many inputs and outputs.
#[derive(Clone, Debug)]
pub struct Bare {
    inputs: usize,
    outputs: usize,
    tables: Vec<u8>,
    encode: EncodeFn,
    update: UpdateFn,
}

impl Bare {
    /// Tables of `outputs` rows of `inputs` coefficients each, or `None` where the CPU lacks the instruction set.
    pub fn new(set: Set, inputs: usize, outputs: usize, coefficients: &[u8]) -> Option<Self> {
        let (init, encode, update) = set.functions()?;
        assert!((1..=BUFFERS_MAX).contains(&inputs) && outputs <= BUFFERS_MAX);
        assert!(coefficients.len() == inputs * outputs);
        let mut tables = vec![0; TABLE_BYTES * inputs * outputs];
        // SAFETY: `inputs * outputs` coefficients are readable by the assertion above, and the tables have room for as many;
        // the CPU has the instruction set by `Set::functions`.
        unsafe {
            init(
                inputs as c_int,
                outputs as c_int,
                coefficients.as_ptr(),
                tables.as_mut_ptr(),
            );
        }
        Some(Self {
            inputs,
            outputs,
            tables,
            encode,
            update,
        })
    }

    /// Writes every output in one call.
    pub fn encode(&self, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) {
        assert!(inputs.len() == self.inputs && outputs.len() == self.outputs);
        let length = inputs[0].len();
        let mut sources = [std::ptr::null(); BUFFERS_MAX];
        let mut targets = [std::ptr::null_mut(); BUFFERS_MAX];
        for (source, input) in sources.iter_mut().zip(inputs) {
            assert!(input.len() == length);
            *source = input.as_ptr();
        }
        for (target, output) in targets.iter_mut().zip(outputs) {
            assert!(output.len() == length);
            *target = output.as_mut_ptr();
        }
        let length = c_int::try_from(length).expect("buffers below 2 GiB");
        // SAFETY: as many buffers as the tables are for, all of `length` bytes by the assertions above; the CPU has the
        // instruction set by `Set::functions`.
        unsafe {
            (self.encode)(
                length,
                self.inputs as c_int,
                self.outputs as c_int,
                self.tables.as_ptr(),
                sources.as_ptr(),
                targets.as_ptr(),
            );
        }
    }

    /// Adds input number `column` to every output in one call.
    pub fn update(&self, column: usize, input: &[u8], outputs: &mut [&mut [u8]]) {
        assert!(column < self.inputs && outputs.len() == self.outputs);
        let mut targets = [std::ptr::null_mut(); BUFFERS_MAX];
        for (target, output) in targets.iter_mut().zip(outputs) {
            assert!(output.len() == input.len());
            *target = output.as_mut_ptr();
        }
        let length = c_int::try_from(input.len()).expect("buffers below 2 GiB");
        // SAFETY: as many outputs as the tables are for, all of the input's length by the assertions above; the CPU has the
        // instruction set by `Set::functions`.
        unsafe {
            (self.update)(
                length,
                self.inputs as c_int,
                self.outputs as c_int,
                column as c_int,
                self.tables.as_ptr(),
                input.as_ptr(),
                targets.as_ptr(),
            );
        }
    }
}
