//! Where the time goes.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

/// Time on the device, by operation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Profile {
    /// Nanoseconds of a tick of the device's clock.
    period: f64,
    /// The bits of the clock that count.
    mask: u64,
    ops: HashMap<&'static str, (u64, u64)>,
}

impl Profile {
    pub(crate) fn new(period: f64, bits: u32) -> Profile {
        Profile { period, mask: u64::MAX >> (64 - bits.clamp(1, 64)), ops: HashMap::new() }
    }

    /// From one reading of the clock to the next, between which it may have started from 0 again.
    pub(crate) fn add(&mut self, op: &'static str, from: u64, to: u64) {
        let ticks = to.wrapping_sub(from) & self.mask;
        let (count, sum) = self.ops.entry(op).or_default();
        *count += 1;
        *sum = sum.saturating_add(ticks);
    }

    /// For each operation how often it ran and how long in all; most time first.
    pub fn rows(&self) -> Vec<(&'static str, u64, Duration)> {
        let time = |ticks: u64| Duration::from_nanos((ticks as f64 * self.period) as u64);
        let mut rows: Vec<_> = self.ops.iter().map(|(op, (count, ticks))| (*op, *count, time(*ticks))).collect();
        rows.sort_by(|a, b| b.2.cmp(&a.2).then(a.0.cmp(b.0)));
        rows
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = self.rows();
        let all: f64 = rows.iter().map(|r| r.2.as_secs_f64()).sum();
        writeln!(f, "{:<24} {:>10} {:>12} {:>12} {:>7}", "operation", "count", "total ms", "each us", "share")?;
        for (op, count, time) in rows {
            let seconds = time.as_secs_f64();
            let (ms, each) = (seconds * 1e3, seconds * 1e6 / count.max(1) as f64);
            let share = if all > 0.0 { 100.0 * seconds / all } else { 0.0 };
            writeln!(f, "{op:<24} {count:>10} {ms:>12.3} {each:>12.2} {share:>6.1}%")?;
        }
        Ok(())
    }
}

/// What a device was asked for so far: generating a token must be one submission and nothing else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Allocations of memory that kernels or copies use.
    pub allocations: u64,
    /// Command buffers begun.
    pub recordings: u64,
    /// Pipelines built.
    pub pipelines: u64,
    /// Submissions.
    pub submissions: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_comes_first() {
        let mut p = Profile::new(2.0, 36);
        p.add("add", 100, 600);
        p.add("mul_mat", (1 << 36) - 1, 1_999_999);
        p.add("add", 7, 1007);
        assert_eq!(p.rows(), [("mul_mat", 1, Duration::from_millis(4)), ("add", 2, Duration::from_micros(3))]);
        let text = p.to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].starts_with("mul_mat") && lines[1].ends_with("99.9%"), "{text}");
    }
}
