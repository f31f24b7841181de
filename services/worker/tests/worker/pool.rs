//! The pool on which steps are evaluated, held by the test: a step that has its permits stays in
//! front of the pool until the test lets go.

use std::sync::{Arc, Condvar, Mutex, mpsc};

pub(crate) struct HeldPool(Arc<(Mutex<bool>, Condvar)>);

impl HeldPool {
    /// Returns once every thread of the pool is held.
    pub(crate) fn hold() -> Self {
        let gate = Arc::new((Mutex::new(false), Condvar::new()));
        let (started, starts) = mpsc::channel();
        let threads = rayon::current_num_threads();
        for _ in 0..threads {
            let (gate, started) = (gate.clone(), started.clone());
            rayon::spawn(move || {
                started.send(()).unwrap();
                let open = gate.0.lock().unwrap();
                drop(gate.1.wait_while(open, |open| !*open).unwrap());
            });
        }
        for _ in 0..threads {
            starts.recv().unwrap();
        }
        Self(gate)
    }
}

impl Drop for HeldPool {
    fn drop(&mut self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }
}
