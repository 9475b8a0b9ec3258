//! AMX on stable Rust: detection, permission, and the instructions as inline assembly.
//!
//! Kernels are written over [`Tiles`]; unit tests run them on an emulation (`emulated`), on any processor.

#[cfg(test)]
pub(crate) mod emulated;

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::sync::OnceLock;

/// Lines of a tile, of 64 bytes each.
pub(crate) const LINES: usize = 16;

/// The sums of two tiles on the left times two on the right: `[left][right][line of left][column of right]`.
#[repr(C, align(64))]
pub(crate) struct Panel<T>(pub [[[[T; 16]; LINES]; 2]; 2]);

/// Two tiles in memory, and after each of them those that are multiplied next and added to the same sums.
#[derive(Clone, Copy)]
pub(crate) struct Two {
    /// Byte 0 of the first of each.
    pub at: [*const u8; 2],
    /// Bytes between the lines of a tile.
    pub line: usize,
    /// Bytes from a tile to the next.
    pub next: usize,
}

/// What kernels need of AMX.
///
/// On the left, a line has what is summed: 64 int8, or 32 bf16. On the right, line q has four int8 of each of 16 columns, values
/// 4 q .. 4 q + 4 of what is summed, or two bf16, values 2 q and 2 q + 1.
pub(crate) trait Tiles {
    /// Gets the tiles of this thread ready; they are given back when the value is dropped.
    ///
    /// # Safety
    /// The processor has the tiles, and nobody else on this thread uses them meanwhile.
    unsafe fn configure() -> Self;

    /// As [`Tiles::configure`], for [`Tiles::dot_i8_halves`] alone: lines on the left have 32 bytes, and there are 8 lines on the right.
    ///
    /// # Safety
    /// As [`Tiles::configure`].
    unsafe fn configure_halves() -> Self;

    /// Multiplies four tiles of int8 on the left, at `left.at` and `left.next` bytes after them, with those on the right, and writes the
    /// sums to `out`: `[at][0, or 1 for next][line of left][column of right]`.
    ///
    /// # Safety
    /// The tiles are those of [`Tiles::configure_halves`]; all can be read, `out` can be written.
    unsafe fn dot_i8_halves(&self, left: &Two, right: &Two, out: *mut Panel<i32>);

    /// Multiplies `steps` tiles of int8 and writes the sums to `out` (`add`: adds them). Without steps, `out` stays as it is.
    ///
    /// # Safety
    /// All tiles can be read; `out` can be written and, for `add`, holds sums.
    unsafe fn dot_i8(&self, left: &Two, right: &Two, steps: usize, add: bool, out: *mut Panel<i32>);

    /// The same of bf16, without `add`.
    ///
    /// # Safety
    /// As [`Tiles::dot_i8`]; the processor has the products ([`has_bf16`]).
    unsafe fn dot_bf16(&self, left: &Two, right: &Two, steps: usize, out: *mut Panel<f32>);
}

/// Whether the processor has AMX's int8 tiles and the system lets this process use them. Asks the system once.
pub(crate) fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| detect() && permitted())
}

/// Whether it has their products of bf16 as well; in unit tests, the emulation does.
pub(crate) fn has_bf16() -> bool {
    cfg!(test) || available() && features() & 1 << 22 != 0
}

/// EDX of CPUID's leaf 7.
fn features() -> u32 {
    if __cpuid(0).eax < 7 { 0 } else { __cpuid_count(7, 0).edx }
}

fn detect() -> bool {
    let tile_and_int8 = 1 << 24 | 1 << 25;
    let has_tiles = features() & tile_and_int8 == tile_and_int8;
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

/// The same, but that tiles 4 and 5 have lines of 32 bytes, and 6 and 7 have 8 lines.
static HALVES: Config = Config {
    bytes_per_row: [64, 64, 64, 64, 32, 32, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 8, 8, 0, 0, 0, 0, 0, 0, 0, 0],
    ..CONFIG
};

/// The instructions.
pub(crate) struct Amx(());

impl Drop for Amx {
    fn drop(&mut self) {
        // SAFETY: whoever has the value has AMX.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) }
    }
}

/// Products by the instruction `$dot`, after the instructions given have filled the sums tmm0 to tmm3.
macro_rules! dot_2x2 {
    ([$($fill:literal),*], $dot:literal, $left:expr, $right:expr, $steps:expr, $out:expr) => {
        asm!(
            $($fill,)*
            "2:",
            "tileloadd tmm4, [{x0} + {x_line}*1]",
            "tileloadd tmm6, [{w0} + {w_line}*1]",
            concat!($dot, " tmm0, tmm4, tmm6"),
            "tileloadd tmm7, [{w1} + {w_line}*1]",
            concat!($dot, " tmm1, tmm4, tmm7"),
            "tileloadd tmm5, [{x1} + {x_line}*1]",
            concat!($dot, " tmm2, tmm5, tmm6"),
            concat!($dot, " tmm3, tmm5, tmm7"),
            "add {x0}, {x_next}",
            "add {x1}, {x_next}",
            "add {w0}, {w_next}",
            "add {w1}, {w_next}",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{out} + {line}*1], tmm0",
            "tilestored [{out} + {line}*1 + 1024], tmm1",
            "tilestored [{out} + {line}*1 + 2048], tmm2",
            "tilestored [{out} + {line}*1 + 3072], tmm3",
            x0 = inout(reg) $left.at[0] => _,
            x1 = inout(reg) $left.at[1] => _,
            w0 = inout(reg) $right.at[0] => _,
            w1 = inout(reg) $right.at[1] => _,
            steps = inout(reg) $steps => _,
            x_line = in(reg) $left.line,
            x_next = in(reg) $left.next,
            w_line = in(reg) $right.line,
            w_next = in(reg) $right.next,
            line = in(reg) 64usize,
            out = in(reg) $out,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        )
    };
}

/// The same from zero.
macro_rules! dot_2x2_from_zero {
    ($dot:literal, $($arg:expr),*) => {
        dot_2x2!(["tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3"], $dot, $($arg),*)
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
    unsafe fn configure_halves() -> Self {
        // SAFETY: the caller has AMX.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const HALVES, options(readonly, nostack, preserves_flags));
        }
        Amx(())
    }

    #[inline(always)]
    unsafe fn dot_i8_halves(&self, left: &Two, right: &Two, out: *mut Panel<i32>) {
        // SAFETY: the caller's promises.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "tileloadd tmm4, [{x0} + {x_line}*1]",
                "tileloadd tmm6, [{w0} + {w_line}*1]",
                "tdpbssd tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{x1} + {x_line}*1]",
                "tileloadd tmm7, [{w1} + {w_line}*1]",
                "tdpbssd tmm1, tmm5, tmm7",
                "tileloadd tmm4, [{x2} + {x_line}*1]",
                "tileloadd tmm6, [{w2} + {w_line}*1]",
                "tdpbssd tmm2, tmm4, tmm6",
                "tileloadd tmm5, [{x3} + {x_line}*1]",
                "tileloadd tmm7, [{w3} + {w_line}*1]",
                "tdpbssd tmm3, tmm5, tmm7",
                "tilestored [{out} + {line}*1], tmm0",
                "tilestored [{out} + {line}*1 + 1024], tmm1",
                "tilestored [{out} + {line}*1 + 2048], tmm2",
                "tilestored [{out} + {line}*1 + 3072], tmm3",
                x0 = in(reg) left.at[0],
                x1 = in(reg) left.at[0].wrapping_add(left.next),
                x2 = in(reg) left.at[1],
                x3 = in(reg) left.at[1].wrapping_add(left.next),
                w0 = in(reg) right.at[0],
                w1 = in(reg) right.at[0].wrapping_add(right.next),
                w2 = in(reg) right.at[1],
                w3 = in(reg) right.at[1].wrapping_add(right.next),
                x_line = in(reg) left.line,
                w_line = in(reg) right.line,
                line = in(reg) 64usize,
                out = in(reg) out,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, preserves_flags),
            )
        }
    }

    #[inline(always)]
    unsafe fn dot_i8(&self, left: &Two, right: &Two, steps: usize, add: bool, out: *mut Panel<i32>) {
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
                    "tdpbssd",
                    left,
                    right,
                    steps,
                    out
                );
            } else {
                dot_2x2_from_zero!("tdpbssd", left, right, steps, out);
            }
        }
    }

    #[inline(always)]
    unsafe fn dot_bf16(&self, left: &Two, right: &Two, steps: usize, out: *mut Panel<f32>) {
        if steps == 0 {
            return;
        }
        // SAFETY: as above.
        unsafe { dot_2x2_from_zero!("tdpbf16ps", left, right, steps, out) }
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
