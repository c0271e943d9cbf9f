//! Calls every declared function, so that a prototype that no longer fits the archive is found here.

use oriel_isal_sys::*;
use std::ffi::c_int;

const K: usize = 4;
const M: usize = 3;
/// Not a multiple of any vector width, so the tail paths run as well.
const LEN: usize = 1000 + 3;

struct Family {
    name: &'static str,
    present: bool,
    tables: InitTablesFn,
    encode: EncodeFn,
    update: UpdateFn,
}

fn families() -> Vec<Family> {
    #[allow(unused_mut)]
    let mut families = vec![
        Family {
            name: "dispatched",
            present: true,
            tables: ec_init_tables,
            encode: ec_encode_data,
            update: ec_encode_data_update,
        },
        Family {
            name: "base",
            present: true,
            tables: ec_init_tables_base,
            encode: ec_encode_data_base,
            update: ec_encode_data_update_base,
        },
    ];
    #[cfg(target_arch = "x86_64")]
    families.extend([
        Family {
            name: "sse",
            present: is_x86_feature_detected!("sse4.1"),
            tables: ec_init_tables_base,
            encode: ec_encode_data_sse,
            update: ec_encode_data_update_sse,
        },
        Family {
            name: "avx",
            present: is_x86_feature_detected!("avx"),
            tables: ec_init_tables_base,
            encode: ec_encode_data_avx,
            update: ec_encode_data_update_avx,
        },
        Family {
            name: "avx2",
            present: is_x86_feature_detected!("avx2"),
            tables: ec_init_tables_base,
            encode: ec_encode_data_avx2,
            update: ec_encode_data_update_avx2,
        },
        Family {
            name: "avx512",
            present: is_x86_feature_detected!("avx512bw"),
            tables: ec_init_tables_base,
            encode: ec_encode_data_avx512,
            update: ec_encode_data_update_avx512,
        },
        Family {
            name: "avx2+gfni",
            present: is_x86_feature_detected!("avx2") && is_x86_feature_detected!("gfni"),
            tables: ec_init_tables_gfni,
            encode: ec_encode_data_avx2_gfni,
            update: ec_encode_data_update_avx2_gfni,
        },
        Family {
            name: "avx512+gfni",
            present: is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("gfni"),
            tables: ec_init_tables_gfni,
            encode: ec_encode_data_avx512_gfni,
            update: ec_encode_data_update_avx512_gfni,
        },
    ]);
    families
}

fn matrix() -> Vec<u8> {
    let mut matrix = vec![0; (K + M) * K];
    // SAFETY: the matrix has (K + M) * K bytes, as the two dimensions say.
    unsafe { gf_gen_cauchy1_matrix(matrix.as_mut_ptr(), (K + M) as c_int, K as c_int) };
    matrix
}

#[test]
fn every_family_computes_the_matrix_product() {
    let matrix = matrix();
    let data: Vec<Vec<u8>> = (0..K)
        .map(|shard| {
            (0..LEN)
                .map(|at| (at * 31 + shard * 97 + at / 7) as u8)
                .collect()
        })
        .collect();
    let mut want = vec![vec![0u8; LEN]; M];
    for (row, parity) in want.iter_mut().enumerate() {
        for (at, byte) in parity.iter_mut().enumerate() {
            *byte = (0..K).fold(0, |sum, shard| {
                sum ^ gf_mul(matrix[(K + row) * K + shard], data[shard][at])
            });
        }
    }
    for family in families().iter().filter(|family| family.present) {
        let mut tables = vec![0u8; TABLE_BYTES * K * M];
        // SAFETY: M rows of K coefficients start at K * K, and the tables hold TABLE_BYTES for each.
        unsafe {
            (family.tables)(
                K as c_int,
                M as c_int,
                matrix[K * K..].as_ptr(),
                tables.as_mut_ptr(),
            )
        };

        let inputs: Vec<*const u8> = data.iter().map(|shard| shard.as_ptr()).collect();
        let mut encoded = vec![vec![0xAAu8; LEN]; M];
        let outputs: Vec<*mut u8> = encoded.iter_mut().map(|shard| shard.as_mut_ptr()).collect();
        // SAFETY: K inputs and M outputs of LEN bytes each, tables of the same family, and a CPU that has it.
        unsafe {
            (family.encode)(
                LEN as c_int,
                K as c_int,
                M as c_int,
                tables.as_ptr(),
                inputs.as_ptr(),
                outputs.as_ptr(),
            );
        }
        assert!(
            encoded == want,
            "{} encodes otherwise than the matrix product",
            family.name
        );

        let mut updated = vec![vec![0u8; LEN]; M];
        let outputs: Vec<*mut u8> = updated.iter_mut().map(|shard| shard.as_mut_ptr()).collect();
        for (shard, input) in data.iter().enumerate() {
            let (k, m, shard) = (K as c_int, M as c_int, shard as c_int);
            // SAFETY: as above, with one input of LEN bytes.
            unsafe {
                (family.update)(
                    LEN as c_int,
                    k,
                    m,
                    shard,
                    tables.as_ptr(),
                    input.as_ptr(),
                    outputs.as_ptr(),
                );
            }
        }
        assert!(
            updated == want,
            "{} updates otherwise than the matrix product",
            family.name
        );
    }
}

#[test]
fn a_matrix_times_its_inverse_is_the_identity() {
    let matrix = matrix();
    let square = &matrix[M * K..];
    let mut consumed = square.to_vec();
    let mut inverse = vec![0u8; K * K];
    // SAFETY: both matrices are K by K.
    let status =
        unsafe { gf_invert_matrix(consumed.as_mut_ptr(), inverse.as_mut_ptr(), K as c_int) };
    assert_eq!(status, 0);
    for row in 0..K {
        for column in 0..K {
            let sum = (0..K).fold(0, |sum, at| {
                sum ^ gf_mul(square[row * K + at], inverse[at * K + column])
            });
            assert_eq!(sum, u8::from(row == column));
        }
    }
    assert!((1..=255u8).all(|element| gf_mul(element, gf_inv(element)) == 1));
}

#[test]
fn checksums_give_the_published_check_values() {
    let input = b"123456789";
    // SAFETY: the length is that of the array.
    let fast = unsafe { crc32_iscsi(input.as_ptr(), input.len() as c_int, !0) };
    // SAFETY: the length is that of the array.
    let base = unsafe { crc32_iscsi_base(input.as_ptr(), input.len() as c_int, !0) };
    assert_eq!((!fast, !base), (0xE306_9283, 0xE306_9283));
    // SAFETY: the length is that of the array.
    let t10 = unsafe { crc16_t10dif(0, input.as_ptr(), input.len() as u64) };
    assert_eq!(t10, 0xD0DB);
}

#[test]
fn bare_calls_compute_the_same_in_every_set() {
    use bare::{Bare, Set};
    let matrix = matrix();
    let data: Vec<Vec<u8>> = (0..K).map(|shard| vec![shard as u8 * 3 + 1; LEN]).collect();
    let inputs: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
    let sets = [
        Set::Dispatched,
        Set::Avx2,
        Set::Avx512,
        Set::Avx2Gfni,
        Set::Avx512Gfni,
    ];
    for set in sets {
        let Some(bare) = Bare::new(set, K, M, &matrix[K * K..]) else {
            continue;
        };
        let mut encoded = vec![vec![0xAAu8; LEN]; M];
        let mut outputs: Vec<&mut [u8]> = encoded.iter_mut().map(Vec::as_mut_slice).collect();
        bare.encode(&inputs, &mut outputs);
        let mut updated = vec![vec![0u8; LEN]; M];
        let mut outputs: Vec<&mut [u8]> = updated.iter_mut().map(Vec::as_mut_slice).collect();
        for (column, input) in inputs.iter().enumerate() {
            bare.update(column, input, &mut outputs);
        }
        for (row, parity) in encoded.iter().enumerate() {
            let coefficients = &matrix[(K + row) * K..][..K];
            let want = coefficients
                .iter()
                .zip(&data)
                .fold(0, |sum, (c, shard)| sum ^ gf_mul(*c, shard[0]));
            assert!(parity.iter().all(|byte| *byte == want), "{set:?}");
        }
        assert!(encoded == updated, "{set:?}");
    }
}
