//! Shared memory.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a mutex holds, also after a thread panicked that had it: whoever uses this keeps it whole at every step.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
