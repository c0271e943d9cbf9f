//! What the wrapper's tests share: a running SPDK in an unprivileged process.

use std::future::Future;

use oriel_spdk::{EnvOptions, SpdkThread, Subsystems, block_on};

/// Runs `body` with started subsystems and tears everything down after it.
pub(crate) fn with_spdk<F: Future<Output = ()>>(body: impl FnOnce(std::rc::Rc<Subsystems>) -> F) {
    let env = EnvOptions {
        name: "wrapper-test".into(),
        ..EnvOptions::default()
    }
    .start()
    .unwrap();
    let thread = SpdkThread::create("test").unwrap();
    block_on(&thread, async {
        let sub = std::rc::Rc::new(Subsystems::start().await.unwrap());
        body(std::rc::Rc::clone(&sub)).await;
        let sub = std::rc::Rc::into_inner(sub).expect("the test let go of the subsystems");
        sub.stop().await;
    });
    thread.exit();
    drop(env);
}
