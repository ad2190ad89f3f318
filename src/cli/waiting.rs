//! Words for a user who waits: what for, and what can be done, on the standard error at growing intervals.

use super::output;
use crate::base::sync::lock;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// How long nothing is said. Doubles each time.
const SILENCE: Duration = Duration::from_secs(2);
/// The longest silence after the first words.
const SILENCE_MAX: Duration = Duration::from_secs(300);

/// Says what is waited for, until it is dropped.
pub(super) struct Waiting {
    words: Arc<Mutex<Option<String>>>,
    _end: Sender<()>,
}

impl Waiting {
    /// Begins to wait; `words` say for what, and how the user can give up or find out more.
    pub(super) fn begin(words: impl Into<String>) -> Waiting {
        Waiting::with(words, SILENCE, |words| output::note(format_args!("waiting: {words}")))
    }

    fn with(words: impl Into<String>, silence: Duration, say: impl Fn(&str) + Send + 'static) -> Waiting {
        let words = Arc::new(Mutex::new(Some(words.into())));
        let (end, ended) = mpsc::channel();
        let known = words.clone();
        thread::spawn(move || {
            let mut silence = silence;
            while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(silence) {
                // Said under the lock: nothing more is said once there is nothing to wait for.
                if let Some(words) = lock(&known).as_deref() {
                    say(words);
                }
                silence = (silence * 2).min(SILENCE_MAX);
            }
        });
        Waiting { words, _end: end }
    }

    /// Says this from now on.
    pub(super) fn change(&self, words: impl Into<String>) {
        *lock(&self.words) = Some(words.into());
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        *lock(&self.words) = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_waited_for_is_said_ever_more_rarely_and_not_after_the_end() {
        let said = Arc::new(Mutex::new(Vec::new()));
        let into = said.clone();
        let waiting = Waiting::with("first", Duration::from_millis(20), move |words| {
            into.lock().unwrap().push(words.to_string());
        });
        while said.lock().unwrap().is_empty() {
            thread::sleep(Duration::from_millis(1));
        }
        waiting.change("second");
        while said.lock().unwrap().len() < 3 {
            thread::sleep(Duration::from_millis(1));
        }
        drop(waiting);
        let heard = said.lock().unwrap().clone();
        assert_eq!((heard[0].as_str(), heard[2].as_str()), ("first", "second"));
        thread::sleep(Duration::from_millis(200));
        assert_eq!(said.lock().unwrap().len(), heard.len());
    }
}
