//! How much memory there is, and how much this program has taken.

/// Bytes that new memory can be had of without swapping, within the limits of the control group; `None` where the system
/// does not say.
pub fn available() -> Option<u64> {
    let free = kib("/proc/meminfo", "MemAvailable:")?;
    let group = |name: &str| -> Option<u64> {
        std::fs::read_to_string(format!("/sys/fs/cgroup/{name}")).ok()?.trim().parse().ok()
    };
    let left = group("memory.max").map(|max| max.saturating_sub(group("memory.current").unwrap_or(0)));
    Some(left.map_or(free, |left| left.min(free)))
}

/// The bytes of memory that this program has now, but for its files; `None` where the system does not say.
pub fn own() -> Option<u64> {
    kib("/proc/self/status", "RssAnon:")
}

/// The most bytes of memory that this program has had at once; `None` where the system does not say.
pub fn peak() -> Option<u64> {
    kib("/proc/self/status", "VmHWM:")
}

/// The value of a line like `VmHWM:   1234 kB`, in bytes.
fn kib(file: &str, key: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix(key))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    #[test]
    #[cfg(target_os = "linux")]
    fn linux_says_all() {
        let (available, own, peak) = (super::available().unwrap(), super::own().unwrap(), super::peak().unwrap());
        assert!(available > 1 << 20 && own > 0 && own < peak, "{available} available, {own} now, peak {peak}");
    }
}
