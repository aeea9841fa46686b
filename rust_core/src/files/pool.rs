//! A bounded number of workers for one kind of job; they are made when they are needed.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, Scope};

use super::Job;

/// Enough for every job: none of them calls itself.
const STACK_BYTES: usize = 256 * 1024;

pub(super) struct Pool<'a> {
    most_workers: usize,
    work: &'a (dyn Fn(Job) + Sync),
    state: Mutex<State>,
    came: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Job>,
    workers: usize,
    idle: usize,
}

impl<'a> Pool<'a> {
    /// Without any worker yet.
    pub(super) fn new(most_workers: usize, work: &'a (dyn Fn(Job) + Sync)) -> Self {
        Self { most_workers, work, state: Mutex::default(), came: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No job runs while it is held, so whoever panicked has left it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more worker, if there is room for a thread.
    pub(super) fn add_worker<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) {
        self.state().workers += 1;
        let worker = Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, || self.serve());
        if worker.is_err() {
            self.state().workers -= 1;
        }
    }

    /// Has a job done by the next worker that is free.
    pub(super) fn submit<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>, job: Job) {
        let mut state = self.state();
        state.waiting.push_back(job);
        let is_short = state.waiting.len() > state.idle && state.workers < self.most_workers;
        drop(state);
        if is_short {
            self.add_worker(scope);
        }
        self.came.notify_one();
        if self.state().workers == 0 {
            self.serve_waiting(); // there was never room for a thread: here, then
        }
    }

    fn serve(&self) {
        loop {
            let mut state = self.state();
            state.idle += 1;
            while state.waiting.is_empty() {
                state = self.came.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.idle -= 1;
            drop(state);
            self.serve_waiting();
        }
    }

    fn serve_waiting(&self) {
        loop {
            let Some(job) = self.state().waiting.pop_front() else { return };
            (self.work)(job);
        }
    }
}
