//! Sizes of the caches, as the system tells them.

use std::sync::LazyLock;

/// Bytes of the second-level cache of a core; 1 MiB where the system does not say.
pub(super) fn l2_bytes() -> usize {
    static L2: LazyLock<usize> = LazyLock::new(|| told().unwrap_or(1 << 20));
    *L2
}

/// What Linux says of the first core's caches.
fn told() -> Option<usize> {
    let folder = std::path::Path::new("/sys/devices/system/cpu/cpu0/cache");
    let read = |index: usize, what: &str| std::fs::read_to_string(folder.join(format!("index{index}/{what}"))).ok();
    let index = (0..8).find(|index| {
        let is = |what, value| read(*index, what).is_some_and(|text| text.trim() == value);
        is("level", "2") && !is("type", "Instruction")
    })?;
    let size = read(index, "size")?;
    let kib: usize = size.trim().strip_suffix('K')?.parse().ok()?;
    (kib > 0).then_some(kib << 10)
}
