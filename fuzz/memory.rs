//! An allocator with a limit: an input of a few kilobytes that makes a target ask for more than 64 MB is a finding.

use std::alloc::{GlobalAlloc, Layout, System};

/// Most bytes of one allocation.
const LIMIT_BYTES: usize = 64 << 20;

struct Limited;

#[global_allocator]
static ALLOCATOR: Limited = Limited;

// SAFETY: every call goes on to the system's allocator unchanged, or fails as an allocator may.
unsafe impl GlobalAlloc for Limited {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() > LIMIT_BYTES {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's layout.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's pointer and layout, which came from `alloc` above and so from the system's allocator.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Makes a target link this allocator.
pub fn limit() {}
