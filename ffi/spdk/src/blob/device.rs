//! The block device below a blobstore.

use std::cell::{Cell, RefCell};
use std::ffi::{CString, c_int, c_void};
use std::ptr::NonNull;
use std::rc::Rc;

use oriel_spdk_sys as sys;

use crate::bdev::{BdevEvent, OpenError, names};
use crate::oneshot::{oneshot, reply_unit};

type Handler = RefCell<Box<dyn FnMut(BdevEvent)>>;

/// Lives until SPDK has let go of the device.
struct Watch {
    raw: sys::oriel_bs_dev_watch,
    handler: Rc<Handler>,
    released: Rc<Cell<bool>>,
}

extern "C" fn event(ctx: *mut c_void, event: c_int) {
    // SAFETY: the watch lives until `released`, and is only read.
    let watch = unsafe { &*ctx.cast::<Watch>() };
    // The handler may end the store, and with it the watch.
    let handler = Rc::clone(&watch.handler);
    (handler.borrow_mut())(BdevEvent::from_raw(event));
}

extern "C" fn released(ctx: *mut c_void) {
    // SAFETY: open() leaked the watch, and the shim calls this once, at the device's end.
    let watch = unsafe { Box::from_raw(ctx.cast::<Watch>()) };
    watch.released.set(true);
}

/// Ready when SPDK's own modules have looked whether new devices are theirs. They hold them open
/// meanwhile, so that they cannot be claimed.
pub(super) async fn examined() {
    let (reply, answer) = oneshot::<()>();
    let ctx = reply.into_raw();
    // SAFETY: reply_unit takes the reply back once.
    let rc = unsafe { sys::oriel_bdev_examined(Some(reply_unit), ctx) };
    if rc != 0 {
        // Without memory for the wait there is none for a store either; that will be said then.
        // SAFETY: a refused wait never calls back, so the reply is still ours.
        unsafe { reply_unit(ctx) };
    }
    answer.await;
}

/// Opens and claims a device. The cell becomes true when SPDK has let go of it again.
pub(super) fn open(
    name: &str,
    on_event: impl FnMut(BdevEvent) + 'static,
) -> Result<(NonNull<sys::spdk_bs_dev>, Rc<Cell<bool>>), OpenError> {
    let not_found = || OpenError::NotFound {
        name: name.into(),
        known: names(),
    };
    let c_name = CString::new(name).map_err(|_| not_found())?;
    let gone = Rc::new(Cell::new(false));
    let watch = Box::into_raw(Box::new(Watch {
        raw: sys::oriel_bs_dev_watch {
            event: Some(event),
            released: Some(released),
            ctx: std::ptr::null_mut(),
            dev: std::ptr::null_mut(),
            bdev: std::ptr::null_mut(),
            destroy: None,
            next: std::ptr::null_mut(),
        },
        handler: Rc::new(RefCell::new(Box::new(on_event))),
        released: Rc::clone(&gone),
    }));
    // SAFETY: the box from above, which nobody else has yet.
    unsafe { (*watch).raw.ctx = watch.cast() };
    let mut dev = std::ptr::null_mut();
    // SAFETY: points into the box from above.
    let raw = unsafe { &raw mut (*watch).raw };
    // SAFETY: the caller has an SPDK thread current; the watch lives until `released`.
    let rc = unsafe { sys::oriel_bs_dev_open(c_name.as_ptr(), raw, &mut dev) };
    if let Some(dev) = NonNull::new(dev).filter(|_| rc == 0) {
        return Ok((dev, gone));
    }
    // SAFETY: a failed open keeps no pointer to the watch.
    drop(unsafe { Box::from_raw(watch) });
    Err(match -rc {
        libc::ENODEV => not_found(),
        libc::EPERM => OpenError::Claimed { name: name.into() },
        errno => OpenError::Failed {
            name: name.into(),
            errno,
        },
    })
}
