//! With a shell in place of an app's process: it says what one would say, whatever it is told.

use std::net::{Ipv4Addr, TcpListener, TcpStream};

use blocktree_engine::crypto::Principal;

use super::*;
use crate::ipc::{FromGuest, Request};
use crate::node::feed::Listener;
use crate::node::locks::Locks;
use crate::node::process::tests::{forger, said};
use crate::node::registry::Registry;
use crate::node::tests::{World, manifest};
use crate::package::{Endpoint, Rights, pack, sign};

const IDLE: Duration = Duration::from_millis(50);

/// An app that is called for files below the folder of a [`World`], and then asks for this.
struct Stage {
    world: World,
    worker: Worker,
}

impl Stage {
    fn new(request: Request, powers: Powers) -> Self {
        let world = World::new(Rights::Read);
        let registry = Registry::new(&world.fs);
        let app = registry.make("probe").expect("made");
        let files = [("app.wasm".to_owned(), b"code".to_vec())];
        let package = pack(manifest(), &files).and_then(|package| sign(&package, &Principal::generate()));
        app.set_package(&package.expect("signed")).expect("written");
        let state = State { grants: world.grants.read().clone(), powers, ..State::new() };
        app.set_state(&state).expect("written");
        let messages = [
            FromGuest::Ready { compiled_bytes: Some(4) },
            FromGuest::Request(request),
            FromGuest::Handled(vec![Ok(())]),
        ];
        let wake: Arc<Wake> = Arc::default();
        world.fs.observe(Arc::new(Listener(Arc::clone(&wake))));
        let services = Services {
            net: Arc::default(),
            locks: Arc::new(Locks::new(&world.fs)),
            post: Arc::new(Post::new(registry, Arc::clone(&wake))),
        };
        let worker = Worker::start(Setting {
            fs: Arc::clone(&world.fs),
            app,
            kernel: Arc::new(()),
            program: forger(&messages.map(|message| said(&message))),
            wake,
            services,
            idle: IDLE,
        });
        Self { worker: worker.expect("started"), world }
    }

    /// Writes a file, and waits until the app has dealt with it; its process, if it did not end since.
    #[track_caller]
    fn event(&self, name: &str) -> u32 {
        let handled = || self.worker.shared.stats.lock().handled;
        let before = handled();
        self.world.put(self.world.top, name, b"1");
        wait_until("it has handled the event", || handled() > before);
        self.process()
    }

    fn process(&self) -> u32 {
        self.worker.shared.stats.lock().process
    }
}

#[track_caller]
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(30), "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn who_is_stopped_before_it_waits_does_not_wait() {
    let shared = Shared::new(&State::new(), &Arc::default());
    // It looked, and was not stopped yet.
    shared.stop();
    let begun = Instant::now();
    shared.wait(shared.wake.count(), begun + Duration::from_secs(10));
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_process_with_nothing_to_do_ends_and_is_started_again() {
    let stage = Stage::new(Request::CloseAll, Powers::default());
    for starts in 1..=2 {
        stage.event(&format!("{starts}.txt"));
        wait_until("its process has ended", || stage.process() == 0);
        assert_eq!(stage.worker.shared.stats.lock().process_starts, starts);
    }
}

#[test]
fn what_others_change_all_the_time_keeps_no_process() {
    let stage = Stage::new(Request::CloseAll, Powers::default());
    let starts = || stage.worker.shared.stats.lock().process_starts;
    stage.event("1.txt");
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // None of it in the app's folder, and without a rest.
        scope.spawn(|| {
            for number in 0..200_000_u32 {
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
                let ino = stage.world.put(blocktree_vfs::Fs::ROOT, "other.txt", &[number as u8]);
                stage.world.fs.unlink(blocktree_vfs::Fs::ROOT, b"other.txt").expect("removed");
                stage.world.fs.forget(ino, 1);
            }
        });
        wait_until("its process has ended", || stage.process() == 0);
        is_over.store(true, Ordering::Relaxed);
    });
    assert_eq!(starts(), 1);
    stage.event("2.txt");
    assert_eq!(starts(), 2, "it still hears of its own");
}

#[test]
fn a_process_with_a_connection_goes_on_until_that_ends() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bound");
    let port = listener.local_addr().expect("an address").port();
    let powers = || {
        let address = Endpoint::new("127.0.0.1", port).expect("an endpoint");
        Powers { sockets: vec![address], ..Powers::default() }
    };
    let stage =
        Stage::new(Request::Connect { host: "127.0.0.1".into(), port, milliseconds: 10_000 }, powers());
    let connected = |name: &str| -> TcpStream {
        let process = stage.event(name);
        let far = listener.accept().expect("a connection").0;
        std::thread::sleep(4 * IDLE);
        assert_eq!((stage.process(), process == 0), (process, false), "it goes on, though it is idle");
        far.set_nonblocking(true).expect("set");
        let kind = far.peek(&mut [0]).map_err(|error| error.kind());
        assert_eq!(kind, Err(std::io::ErrorKind::WouldBlock), "its connection too");
        far
    };
    drop(connected("1.txt"));
    wait_until("its process has ended with the connection", || stage.process() == 0);
    let far = connected("2.txt");
    stage.worker.shared.set_powers(Powers::default());
    wait_until("its process has ended with the grant", || stage.process() == 0);
    let kind = far.peek(&mut [0]).map_err(|error| error.kind());
    assert_ne!(kind, Err(std::io::ErrorKind::WouldBlock), "and so has its connection");
}
