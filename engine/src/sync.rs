//! The locks and atomics of the tree, under names that a model checker can stand behind.
//!
//! With the feature `shuttle` each of them becomes a scheduling point, and the tests of `tests/interleavings.rs`
//! run under many schedules; otherwise they are `parking_lot`'s and the standard library's.

#[cfg(not(feature = "shuttle"))]
mod chosen {
    pub(crate) use parking_lot::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
    pub(crate) use std::sync::atomic::{AtomicU64, Ordering};
}

#[cfg(feature = "shuttle")]
mod chosen {
    pub(crate) use shuttle::sync::atomic::{AtomicU64, Ordering};
    pub(crate) use shuttle::sync::{MutexGuard, RwLockReadGuard, RwLockWriteGuard};

    const NO_PANIC: &str = "a schedule that panics ends the test";

    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().expect(NO_PANIC)
        }
        pub(crate) fn get_mut(&mut self) -> &mut T {
            self.0.get_mut().expect(NO_PANIC)
        }
    }

    #[derive(Debug, Default)]
    pub(crate) struct RwLock<T>(shuttle::sync::RwLock<T>);

    impl<T> RwLock<T> {
        pub(crate) fn read(&self) -> RwLockReadGuard<'_, T> {
            self.0.read().expect(NO_PANIC)
        }
        pub(crate) fn write(&self) -> RwLockWriteGuard<'_, T> {
            self.0.write().expect(NO_PANIC)
        }
    }
}

pub(crate) use chosen::*;
