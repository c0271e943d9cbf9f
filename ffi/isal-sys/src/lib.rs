//! Bindings to the erasure-code and CRC parts of ISA-L, and the one copy of `libisal.a` in a program.
//!
//! The `isal-sys` crate builds ISA-L (just after 2.31, with AVX-512 and GFNI erasure code) and carries the whole static
//! archive inside its rlib, but binds only igzip and does not export its headers. The prototypes below are therefore
//! written by hand; the tests call each of them. C declares every pointer as mutable; here a pointer that the function
//! only reads is `*const`.
//!
//! SPDK's own code also calls ISA-L (`crc16_t10dif`, `crc32_iscsi`, igzip): a crate that links SPDK depends on this one and
//! says `extern crate oriel_isal_sys as _;`, and leaves SPDK's `libisal.a` out. The key `links = "oriel_isal"` lets Cargo
//! refuse a second version of this crate in one program.
//!
//! ## Tables
//!
//! The `*_init_tables*` functions expand coefficients into a layout private to an instruction set: 32 bytes for each
//! coefficient up to AVX-512, 8 bytes with GFNI. A table goes only to the functions of the same family, and
//! [`ec_init_tables`] chooses its layout by the CPU at run time, so its tables go only to [`ec_encode_data`] and
//! [`ec_encode_data_update`]. Always allocate [`TABLE_BYTES`] for each coefficient.

// Without this line the linker would not see the archive inside the upstream rlib.
extern crate isal_upstream as _;

pub mod bare;

use std::ffi::c_int;

/// The most bytes that any instruction set writes into a table for one coefficient.
pub const TABLE_BYTES: usize = 32;

/// Computes `rows` outputs from `k` inputs: `len`, `k`, `rows`, tables, `k` input pointers, `rows` output pointers.
pub type EncodeFn = unsafe extern "C" fn(
    len: c_int,
    k: c_int,
    rows: c_int,
    tables: *const u8,
    data: *const *const u8,
    coding: *const *mut u8,
);

/// Adds input number `vec_i` of `k` to `rows` outputs: `len`, `k`, `rows`, `vec_i`, tables, the input, `rows` output pointers.
pub type UpdateFn = unsafe extern "C" fn(
    len: c_int,
    k: c_int,
    rows: c_int,
    vec_i: c_int,
    tables: *const u8,
    data: *const u8,
    coding: *const *mut u8,
);

/// Expands `k * rows` coefficients, row by row, into tables.
pub type InitTablesFn =
    unsafe extern "C" fn(k: c_int, rows: c_int, coefficients: *const u8, tables: *mut u8);

macro_rules! declare {
    ($(#[$attribute:meta])* encode: $($encode:ident)*; update: $($update:ident)*; tables: $($tables:ident)*;) => {
        $(#[$attribute])*
        unsafe extern "C" {
            $(
                /// Computes `rows` outputs from `k` inputs of `len` bytes each; see [`EncodeFn`].
                pub fn $encode(
                    len: c_int, k: c_int, rows: c_int, tables: *const u8, data: *const *const u8, coding: *const *mut u8,
                );
            )*
            $(
                /// Adds one input of `len` bytes to `rows` outputs; see [`UpdateFn`].
                pub fn $update(
                    len: c_int, k: c_int, rows: c_int, vec_i: c_int, tables: *const u8, data: *const u8,
                    coding: *const *mut u8,
                );
            )*
            $(
                /// Expands coefficients into tables of [`TABLE_BYTES`] at most each; see [`InitTablesFn`].
                pub fn $tables(k: c_int, rows: c_int, coefficients: *const u8, tables: *mut u8);
            )*
        }
    };
}

declare! {
    encode: ec_encode_data ec_encode_data_base;
    update: ec_encode_data_update ec_encode_data_update_base;
    tables: ec_init_tables ec_init_tables_base;
}

declare! {
    #[cfg(target_arch = "x86_64")]
    encode: ec_encode_data_sse ec_encode_data_avx ec_encode_data_avx2 ec_encode_data_avx512
        ec_encode_data_avx2_gfni ec_encode_data_avx512_gfni;
    update: ec_encode_data_update_sse ec_encode_data_update_avx ec_encode_data_update_avx2 ec_encode_data_update_avx512
        ec_encode_data_update_avx2_gfni ec_encode_data_update_avx512_gfni;
    tables: ec_init_tables_gfni;
}

unsafe extern "C" {
    /// The product of two elements of GF(2^8) with the polynomial 0x11d.
    pub safe fn gf_mul(a: u8, b: u8) -> u8;

    /// The inverse of an element of GF(2^8), or 0 for 0.
    pub safe fn gf_inv(a: u8) -> u8;

    /// Writes an `m` by `k` matrix: the identity above a Cauchy matrix. Any `k` of its rows are independent for m + k ≤ 256.
    pub fn gf_gen_cauchy1_matrix(matrix: *mut u8, m: c_int, k: c_int);

    /// Inverts an `n` by `n` matrix, destroying the input; returns 0, or -1 when it is singular.
    pub fn gf_invert_matrix(input: *mut u8, output: *mut u8, n: c_int) -> c_int;

    /// CRC32C of `len` bytes from the state `init_crc`, without inversion of the state before or after.
    pub fn crc32_iscsi(buffer: *const u8, len: c_int, init_crc: u32) -> u32;

    /// [`crc32_iscsi`] in plain C.
    pub fn crc32_iscsi_base(buffer: *const u8, len: c_int, init_crc: u32) -> u32;

    /// The T10 data integrity field's CRC of `len` bytes from `seed`.
    pub fn crc16_t10dif(seed: u16, buffer: *const u8, len: u64) -> u16;
}
