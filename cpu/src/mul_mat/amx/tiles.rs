//! AMX on stable Rust: detection, permission, and the instructions as inline assembly.

use std::arch::asm;
use std::arch::x86_64::*;
use std::sync::OnceLock;

use super::TOKENS;
use crate::mul_mat::vector::Simd;
use crate::mul_mat::vector_avx512::Avx512Vnni;

/// The sums of two tiles of tokens times two tiles of rows: `[token / 16][row / 16][token % 16][row % 16]`.
#[repr(C, align(64))]
pub(in crate::mul_mat) struct Panel(pub [[[[i32; 16]; TOKENS]; 2]; 2]);

/// What the kernel needs of AMX. Tests put an emulation in its place.
pub(in crate::mul_mat) trait Tiles {
    /// Gets the tiles of this thread ready; they are given back when the value is dropped.
    ///
    /// # Safety
    /// The processor has the tiles, and nobody else on this thread uses them meanwhile.
    unsafe fn configure() -> Self;

    /// Multiplies `steps` tiles of int8 activations, `x_stride` bytes from token to token and 64 from tile to tile,
    /// with `steps` tiles of weights that follow each other, and writes the sums to `out` (`add`: adds them).
    ///
    /// # Safety
    /// All tiles can be read; `out` can be written and, for `add`, holds sums.
    unsafe fn dot_2x2(
        &self,
        x: [*const u8; 2],
        x_stride: usize,
        w: [*const u8; 2],
        steps: usize,
        add: bool,
        out: *mut Panel,
    );

    /// What unpacks the weights.
    type S: Simd;

    /// The 64 bytes at each pointer: four bytes of all rows, then the next four.
    ///
    /// # Safety
    /// The processor has the features of `S`; 64 bytes can be read at each pointer.
    unsafe fn transpose(rows: [*const u8; 16]) -> [<Self::S as Simd>::B; 16];
}

/// Whether the processor has AMX's int8 tiles and the system lets this process use them. Asks the system once.
pub(crate) fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| detect() && permitted())
}

fn detect() -> bool {
    if __cpuid(0).eax < 7 {
        return false;
    }
    let tile_and_int8 = 1 << 24 | 1 << 25;
    let has_tiles = __cpuid_count(7, 0).edx & tile_and_int8 == tile_and_int8;
    let os_uses_xsave = __cpuid(1).ecx & 1 << 27 != 0;
    if !has_tiles || !os_uses_xsave {
        return false;
    }
    let (enabled, _high): (u32, u32);
    // SAFETY: the system has enabled XSAVE, so that this register can be read.
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") enabled, out("edx") _high, options(nomem, nostack, preserves_flags));
    }
    // The system saves the tiles' configuration and data.
    enabled & 3 << 17 == 3 << 17
}

/// Linux saves tiles only for those who ask for it.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const SYS_ARCH_PRCTL: usize = 158;
    const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
    const XFEATURE_XTILEDATA: usize = 18;
    let result: isize;
    // SAFETY: the system call touches no memory of ours; it changes rcx and r11.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") SYS_ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// `LDTILECFG`'s operand.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes_per_row: [u16; 16],
    rows: [u8; 16],
}

/// Eight tiles of 16 rows of 64 bytes.
static CONFIG: Config = Config {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    bytes_per_row: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// The instructions.
pub(in crate::mul_mat) struct Amx(());

impl Drop for Amx {
    fn drop(&mut self) {
        // SAFETY: whoever has the value has AMX.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) }
    }
}

/// `dot_2x2`, after the instructions given have filled the sums tmm0 to tmm3.
macro_rules! dot_2x2 {
    ([$($fill:literal),*], $x:expr, $x_stride:expr, $w:expr, $steps:expr, $out:expr) => {
        asm!(
            $($fill,)*
            "2:",
            "tileloadd tmm4, [{x0} + {x_stride}*1]",
            "tileloadd tmm6, [{w0} + {line}*1]",
            "tdpbssd tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{w1} + {line}*1]",
            "tdpbssd tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{x1} + {x_stride}*1]",
            "tdpbssd tmm2, tmm5, tmm6",
            "tdpbssd tmm3, tmm5, tmm7",
            "add {x0}, 64",
            "add {x1}, 64",
            "add {w0}, 1024",
            "add {w1}, 1024",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{out} + {line}*1], tmm0",
            "tilestored [{out} + {line}*1 + 1024], tmm1",
            "tilestored [{out} + {line}*1 + 2048], tmm2",
            "tilestored [{out} + {line}*1 + 3072], tmm3",
            x0 = inout(reg) $x[0] => _,
            x1 = inout(reg) $x[1] => _,
            w0 = inout(reg) $w[0] => _,
            w1 = inout(reg) $w[1] => _,
            steps = inout(reg) $steps => _,
            x_stride = in(reg) $x_stride,
            line = in(reg) 64usize,
            out = in(reg) $out,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        )
    };
}

impl Tiles for Amx {
    #[inline(always)]
    unsafe fn configure() -> Self {
        // SAFETY: the caller has AMX.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const CONFIG, options(readonly, nostack, preserves_flags));
        }
        Amx(())
    }

    #[inline(always)]
    unsafe fn dot_2x2(
        &self,
        x: [*const u8; 2],
        x_stride: usize,
        w: [*const u8; 2],
        steps: usize,
        add: bool,
        out: *mut Panel,
    ) {
        if steps == 0 {
            return;
        }
        // SAFETY: the tiles are configured, as there is a `self`; the rest is the caller's promise.
        unsafe {
            if add {
                dot_2x2!(
                    [
                        "tileloadd tmm0, [{out} + {line}*1]",
                        "tileloadd tmm1, [{out} + {line}*1 + 1024]",
                        "tileloadd tmm2, [{out} + {line}*1 + 2048]",
                        "tileloadd tmm3, [{out} + {line}*1 + 3072]"
                    ],
                    x,
                    x_stride,
                    w,
                    steps,
                    out
                );
            } else {
                dot_2x2!(
                    ["tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3"],
                    x,
                    x_stride,
                    w,
                    steps,
                    out
                );
            }
        }
    }

    type S = Avx512Vnni;

    #[inline(always)]
    unsafe fn transpose(rows: [*const u8; 16]) -> [__m512i; 16] {
        // SAFETY: the caller's promises.
        unsafe { transpose(rows) }
    }
}

/// Multiplies tiles in registers, as fast as the processor can: for [`crate::floor`]. Returns the number of dot products
/// of 64 bytes.
///
/// # Safety
/// AMX is [`available`].
pub(crate) unsafe fn multiply_in_registers() -> usize {
    const ROUNDS: usize = 4000;
    // SAFETY: the caller has AMX; the tiles' contents do not matter.
    unsafe {
        let _tiles = <Amx as Tiles>::configure();
        asm!(
            "2:",
            "tdpbssd tmm0, tmm4, tmm6",
            "tdpbssd tmm1, tmm4, tmm7",
            "tdpbssd tmm2, tmm5, tmm6",
            "tdpbssd tmm3, tmm5, tmm7",
            "dec {rounds}",
            "jnz 2b",
            rounds = inout(reg) ROUNDS => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            options(nomem, nostack),
        );
    }
    ROUNDS * 4 * 16 * 16
}

/// A transposition of 16 x 16 u32 in 64 shuffles.
///
/// # Safety
/// The processor has AVX-512F; 64 bytes can be read at each pointer.
#[inline(always)]
pub(in crate::mul_mat) unsafe fn transpose(rows: [*const u8; 16]) -> [__m512i; 16] {
    // SAFETY: the caller's promises; a line is 64 aligned bytes.
    unsafe {
        let row = rows.map(|p| _mm512_loadu_si512(p.cast()));
        let zero = _mm512_setzero_si512();
        // Of four rows: lane 4 i + j of v[4 g + c] is dword 4 i + c of row 4 g + j.
        let mut v = [zero; 16];
        for g in (0..16).step_by(4) {
            let lo01 = _mm512_unpacklo_epi32(row[g], row[g + 1]);
            let hi01 = _mm512_unpackhi_epi32(row[g], row[g + 1]);
            let lo23 = _mm512_unpacklo_epi32(row[g + 2], row[g + 3]);
            let hi23 = _mm512_unpackhi_epi32(row[g + 2], row[g + 3]);
            v[g] = _mm512_unpacklo_epi64(lo01, lo23);
            v[g + 1] = _mm512_unpackhi_epi64(lo01, lo23);
            v[g + 2] = _mm512_unpacklo_epi64(hi01, hi23);
            v[g + 3] = _mm512_unpackhi_epi64(hi01, hi23);
        }
        // 128-bit lane i of v[4 g + c] goes to lane g of line 4 i + c.
        let mut out = [zero; 16];
        for c in 0..4 {
            let even01 = _mm512_shuffle_i32x4::<0b10_00_10_00>(v[c], v[4 + c]);
            let odd01 = _mm512_shuffle_i32x4::<0b11_01_11_01>(v[c], v[4 + c]);
            let even23 = _mm512_shuffle_i32x4::<0b10_00_10_00>(v[8 + c], v[12 + c]);
            let odd23 = _mm512_shuffle_i32x4::<0b11_01_11_01>(v[8 + c], v[12 + c]);
            out[c] = _mm512_shuffle_i32x4::<0b10_00_10_00>(even01, even23);
            out[4 + c] = _mm512_shuffle_i32x4::<0b10_00_10_00>(odd01, odd23);
            out[8 + c] = _mm512_shuffle_i32x4::<0b11_01_11_01>(even01, even23);
            out[12 + c] = _mm512_shuffle_i32x4::<0b11_01_11_01>(odd01, odd23);
        }
        out
    }
}
