//! Something done with each of a list, several at a time: files of a directory, libraries of a wheel, layers of an image.
//!
//! Threads take the next that nobody has, so that a list which begins with what takes longest ends early on all of them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// What `act` gives for each item, in the order of the items. After an error nothing more is begun; it is the result.
///
/// # Errors
///
/// The first that `act` gives.
pub fn each<T: Sync, R: Send, E: Send>(
    items: &[T],
    threads: usize,
    act: impl Fn(&T) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    let next = AtomicUsize::new(0);
    let done: Mutex<Result<Vec<(usize, R)>, E>> = Mutex::new(Ok(Vec::with_capacity(items.len())));
    let work = || loop {
        let at = next.fetch_add(1, Ordering::Relaxed);
        let Some(item) = items.get(at) else { return };
        let result = act(item);
        let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
        match (&mut *done, result) {
            (Ok(all), Ok(result)) => all.push((at, result)),
            (Ok(_), Err(error)) => *done = Err(error),
            (Err(_), _) => return,
        }
        if done.is_err() {
            return;
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, items.len().max(1)) {
            scope.spawn(work);
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner)?;
    done.sort_unstable_by_key(|(at, _)| *at);
    Ok(done.into_iter().map(|(_, result)| result).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_in_the_order_of_the_items_whatever_the_number_of_threads() {
        let items: Vec<u32> = (0..1000).collect();
        let expected: Vec<u32> = items.iter().map(|item| item * 2).collect();
        for threads in [0, 1, 3, 2000] {
            assert_eq!(each(&items, threads, |item| Ok::<_, ()>(item * 2)), Ok(expected.clone()));
        }
        assert_eq!(each(&[0; 0], 4, |item| Ok::<_, ()>(*item)), Ok(Vec::new()));
    }

    #[test]
    fn after_an_error_nothing_more_is_begun() {
        let begun = AtomicUsize::new(0);
        let act = |item: &u32| {
            begun.fetch_add(1, Ordering::Relaxed);
            if *item == 3 { Err("three") } else { Ok(()) }
        };
        assert_eq!(each(&(0..1000).collect::<Vec<u32>>(), 1, act), Err("three"));
        assert_eq!(begun.into_inner(), 4);
    }
}
