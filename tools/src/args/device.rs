//! What to run on.

use clap::Args;
use fabric_engine::DeviceOptions;
use fabric_engine::device::SimdLevel;

/// Flags that choose the device. None of them changes the output.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Device")]
pub struct DeviceArgs {
    /// CPU threads; -1: one per physical core
    #[arg(short, long, value_name = "N", default_value_t = -1, env = "LLAMA_ARG_THREADS",
          value_parser = clap::value_parser!(i32).range(-1..=512))]
    pub threads: i32,
    /// Highest instruction set to use: scalar, avx2, avxvnni, avx512, avx512vnni, amx; left out: the best that
    /// the CPU has
    #[arg(long, value_name = "LEVEL", env = "FABRIC_SIMD")]
    pub simd: Option<SimdLevel>,
    /// Print the devices and exit
    #[arg(long)]
    pub list_devices: bool,
}

impl DeviceArgs {
    /// For the engine.
    pub fn options(&self) -> DeviceOptions {
        let &DeviceArgs { threads, simd, list_devices: _ } = self;
        DeviceOptions { threads: usize::try_from(threads).ok().filter(|&n| n > 0), simd }
    }
}
