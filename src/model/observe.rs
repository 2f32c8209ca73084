//! Who wants to see what goes into linear layers.

/// Sees the input of linear layers while a model runs. Called from several threads at once, window by window in no
/// fixed order: what it gathers must not depend on the order.
pub trait Observe: Sync {
    /// Rows of `width` values that go into every one of `layers` (whole names of their weights), for one window.
    fn input(&self, layers: &[&str], rows: &[f32], width: usize);

    /// Whether nobody reads what the block gives, so that its last product may be left out.
    fn only_inputs(&self) -> bool {
        false
    }

    /// A block has passed over every window: nothing more comes from its layers.
    fn block_done(&self) {}
}

/// Nobody.
#[derive(Clone, Copy, Debug)]
pub struct Nobody;

impl Observe for Nobody {
    fn input(&self, _layers: &[&str], _rows: &[f32], _width: usize) {}
}
