//! What a process asks for that broke out of its runtime: requests as no sandbox sends them, straight to the node.

use std::io::Read as _;
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command};

use super::*;
use crate::ipc::Side;
use crate::limits::{LETTER_BYTES_MAX, PATH_BYTES_MAX};
use crate::node::feed::Wake;
use crate::node::grants::Powers;
use crate::node::registry::{Registry, State};
use crate::node::tests::World;
use crate::package::Rights;

/// A process for the node to look at, which does nothing.
struct Idle(Child);

impl Idle {
    fn new() -> Self {
        Self(Command::new("sleep").arg("600").spawn().expect("started"))
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Apps that are granted the folder of a [`World`].
struct Stage {
    world: World,
    registry: Registry,
    services: Services,
}

struct Forger {
    requests: Requests,
    shared: Arc<Shared>,
    window: Window,
    _process: Idle,
}

impl Stage {
    fn new() -> Self {
        let world = World::new(Rights::ReadWrite);
        let registry = Registry::new(&world.fs);
        let post = Post::new(registry.clone(), Arc::<Wake>::default());
        let (locks, post) = (Arc::new(Locks::new(&world.fs)), Arc::new(post));
        Self { world, registry, services: Services { net: Arc::default(), locks, post } }
    }

    fn app(&self, name: &str, powers: Powers) -> (App, Arc<Shared>) {
        let app = self.registry.make(name).expect("made");
        let state = State { grants: self.world.grants.read().clone(), powers, ..State::new() };
        app.set_state(&state).expect("written");
        (app, Arc::new(Shared::new(&state, &Arc::default())))
    }

    fn forger(&self, name: &str, powers: Powers) -> Forger {
        let (app, shared) = self.app(name, powers);
        let (fs, services) = (&self.world.fs, self.services.clone());
        let requests = Requests::new(fs, &app, Arc::new(()), services, Arc::clone(&shared)).expect("made");
        Forger::of(requests, shared)
    }

    fn letters(&self, name: &str) -> usize {
        let app = self.registry.app(name).expect("read").expect("installed");
        app.letters().expect("made").list().expect("listed").len()
    }
}

impl Forger {
    fn of(requests: Requests, shared: Arc<Shared>) -> Self {
        let process = Idle::new();
        shared.stats.lock().process = process.0.id();
        Self { requests, shared, window: Window::new().expect("a window"), _process: process }
    }

    fn asks(&mut self, request: Request) -> Result<Reply, Error> {
        self.requests.answer(request, &self.window)
    }

    fn locks(&mut self, grant: &str, path: &str) -> Result<(Handle, u64), Error> {
        match self.asks(Request::Lock { grant: grant.into(), path: path.into() })? {
            Reply::Locked { handle, token } => Ok((handle, token)),
            other => panic!("{other:?}"),
        }
    }

    fn opens(&mut self, path: &str, how: How) -> Handle {
        match self.asks(Request::Open { grant: "box".into(), path: path.into(), how }) {
            Ok(Reply::Handle(handle)) => handle,
            other => panic!("{other:?}"),
        }
    }

    fn fences(&mut self, handle: Handle, path: &str, token: u64) -> Result<Reply, Error> {
        self.asks(Request::Fence { handle, grant: "box".into(), path: path.into(), token })
    }

    fn connects(&mut self, host: &str, port: u16) -> Result<Handle, Error> {
        match self.asks(Request::Connect { host: host.into(), port, milliseconds: 10_000 })? {
            Reply::Handle(handle) => Ok(handle),
            other => panic!("{other:?}"),
        }
    }

    fn says(&mut self, handle: Handle, data: Data) -> Result<Reply, Error> {
        self.asks(Request::SocketWrite { handle, data, milliseconds: 10_000 })
    }

    fn sends(&mut self, app: &str, bytes: usize) -> Result<Reply, Error> {
        self.asks(Request::Send { app: app.into(), bytes: vec![b'x'; bytes] })
    }
}

#[test]
fn no_lock_is_taken_outside_of_a_grant() {
    let stage = Stage::new();
    let outside = stage.world.dir(Fs::ROOT, "outside");
    stage.world.put(outside, "file", b"1");
    stage.world.put(stage.world.top, "file", b"1");
    let user = blocktree_vfs::Caller { uid: 0, gid: 0, pid: 0, umask: 0 };
    stage.world.fs.symlink(&user, stage.world.top, b"link", b"../outside").expect("made");
    let mut forger = stage.forger("forger", Powers::default());
    for grant in ["other", "", "/box", "box/", "../box"] {
        assert_eq!(forger.locks(grant, "l"), Err(Error::NotGranted), "{grant}");
    }
    let long = "l".repeat(PATH_BYTES_MAX + 1);
    for path in ["", "/", "..", "../outside/l", "/outside/l", "a/../l", "a//l", "l/", "l\0", &long] {
        assert_eq!(forger.locks("box", path), Err(Error::Malformed), "{path}");
    }
    assert_eq!(forger.locks("box", "link/l"), Err(Error::NotADirectory));
    assert_eq!(forger.locks("box", "file/l"), Err(Error::NotADirectory));
    assert_eq!(forger.locks("box", "nowhere/l"), Err(Error::NotFound));
    forger.shared.grants.write()[0].rights = Rights::Read;
    assert_eq!(forger.locks("box", "l"), Err(Error::NotGranted));
    forger.shared.grants.write().clear();
    assert_eq!(forger.locks("box", "l"), Err(Error::NotGranted));
    assert!(!forger.requests.keeps_something());
}

#[test]
fn the_lock_of_another_is_neither_given_back_nor_made_up() {
    let stage = Stage::new();
    stage.world.put(stage.world.top, "file", b"1");
    let (mut holder, mut forger) =
        (stage.forger("holder", Powers::default()), stage.forger("forger", Powers::default()));
    let (handle, token) = holder.locks("box", "l").expect("taken");
    for handle in [handle, 0, handle + 1, Handle::MAX] {
        assert_eq!(forger.asks(Request::Unlock { handle }), Err(Error::NotFound));
    }
    assert_eq!(forger.asks(Request::CloseAll), Ok(Reply::Done));
    assert_eq!(forger.locks("box", "l"), Err(Error::Locked), "it is still the other's");

    let file = forger.opens("file", How::Edit);
    for made_up in [0, token - 1, token + 1, u64::MAX] {
        assert_eq!(forger.fences(file, "l", made_up), Err(Error::Locked), "{made_up}");
    }
    assert_eq!(forger.fences(file, "file", token), Err(Error::Locked), "a token of another place");
    assert_eq!(forger.fences(file, "../l", token), Err(Error::Malformed));
    assert_eq!(forger.fences(file + 1, "l", token), Err(Error::NotFound));
    let looked_at = forger.opens("file", How::Read);
    assert_eq!(forger.fences(looked_at, "l", token), Err(Error::NotGranted));

    // The holder's grant ends, and with it the lock; who has it now keeps it whatever the holder says.
    holder.shared.grants.write().clear();
    let (_, next) = forger.locks("box", "l").expect("free");
    assert!(next > token);
    assert_eq!(
        holder.asks(Request::Unlock { handle }),
        Ok(Reply::Done),
        "of its own, which is none any more"
    );
    assert_eq!(holder.asks(Request::Unlock { handle }), Err(Error::NotFound), "once");
    assert_eq!(forger.fences(file, "l", next), Ok(Reply::Done), "it is held");
}

#[test]
fn a_lock_is_no_file_and_so_many_are_taken() {
    let stage = Stage::new();
    let mut forger = stage.forger("forger", Powers::default());
    let (handle, _) = forger.locks("box", "l").expect("taken");
    assert_eq!(forger.asks(Request::Read { handle, offset: 0, length: 1 }), Err(Error::NotFound));
    assert_eq!(forger.asks(Request::Close { handle }), Err(Error::NotFound));
    for number in 1..LOCKS_MAX {
        forger.locks("box", &number.to_string()).expect("taken");
    }
    assert_eq!(forger.locks("box", "more"), Err(Error::TooLarge));
    assert_eq!(forger.asks(Request::CloseAll), Ok(Reply::Done));
    forger.locks("box", "more").expect("all were given back");
}

#[test]
fn messages_go_to_nobody_but_whom_the_owner_named() {
    let stage = Stage::new();
    let receives = Powers { receives: true, ..Powers::default() };
    for name in ["other", "third"] {
        stage.app(name, receives.clone());
    }
    stage.app("deaf", Powers::default());
    let granted = ["other", "deaf", "nobody"].map(str::to_owned).to_vec();
    let mut forger = stage.forger("forger", Powers { sends: granted, ..receives });
    let long = "a".repeat(PATH_BYTES_MAX);
    for name in ["forger", "third", "", ".", "..", "../other", "other/", "/other", "OTHER", "other\0", &long]
    {
        assert_eq!(forger.sends(name, 1), Err(Error::NotGranted), "{name}");
    }
    for name in ["deaf", "nobody"] {
        assert_eq!(forger.sends(name, 1), Err(Error::NotGranted), "{name} takes none");
    }
    assert_eq!(forger.sends("other", LETTER_BYTES_MAX + 1), Err(Error::TooLarge));
    assert_eq!(forger.sends("nobody", LETTER_BYTES_MAX + 1), Err(Error::TooLarge));
    assert_eq!(["forger", "other", "third", "deaf"].map(|name| stage.letters(name)), [0; 4]);
    // Whatever may be granted, a name is no path.
    let odd = ["", "..", "../apps/other", "other/../third", &long].map(str::to_owned).to_vec();
    forger.shared.powers.write().sends.extend(odd.clone());
    for name in &odd {
        assert_eq!(forger.sends(name, 1), Err(Error::Malformed), "{name}");
    }
    assert_eq!(forger.sends("other", LETTER_BYTES_MAX), Ok(Reply::Done));
    assert_eq!(stage.letters("other"), 1);
    forger.shared.powers.write().sends.clear();
    assert_eq!(forger.sends("other", 1), Err(Error::NotGranted));
    assert_eq!(stage.letters("other"), 1);
}

#[test]
fn who_is_asked_neither_locks_nor_sends() {
    let stage = Stage::new();
    stage.world.put(stage.world.top, "file", b"1");
    stage.app("other", Powers { receives: true, ..Powers::default() });
    let (app, shared) = stage.app("judge", Powers { sends: vec!["other".to_owned()], ..Powers::default() });
    let requests = Requests::looking(&stage.world.fs, &app, stage.services.clone(), Arc::clone(&shared));
    let mut judge = Forger::of(requests.expect("made"), shared);
    let file = judge.opens("file", How::Read);
    assert_eq!(judge.locks("box", "l"), Err(Error::NotGranted));
    assert_eq!(judge.fences(file, "l", 1), Err(Error::NotGranted));
    assert_eq!(judge.asks(Request::Unlock { handle: 1 }), Err(Error::NotGranted));
    assert_eq!(judge.sends("other", 1), Err(Error::NotGranted));
    assert_eq!(stage.letters("other"), 0);
}

/// A server, and the word of an owner for it.
fn server() -> (TcpListener, u16, Powers) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bound");
    listener.set_nonblocking(true).expect("set");
    let port = listener.local_addr().expect("an address").port();
    let address = Endpoint::new("127.0.0.1", port).expect("an endpoint");
    (listener, port, Powers { sockets: vec![address], ..Powers::default() })
}

#[test]
fn nobody_is_connected_to_but_whom_the_owner_named() {
    let stage = Stage::new();
    let (listener, port, powers) = server();
    let mut forger = stage.forger("forger", powers);
    for host in ["localhost", "127.0.0.2", "::ffff:127.0.0.1", "0.0.0.0", "::1"] {
        assert_eq!(forger.connects(host, port), Err(Error::NotGranted), "{host}");
    }
    let own = format!("127.0.0.1:{port}");
    let long = "a".repeat(PATH_BYTES_MAX);
    for host in ["", "127.1", "2130706433", "0x7f000001", "127.0.0.1\0", "127.0.0.1 ", &own, "[::1", &long] {
        assert_eq!(forger.connects(host, port), Err(Error::Malformed), "{host}");
    }
    assert_eq!(forger.connects("127.0.0.1", 0), Err(Error::Malformed));
    assert_eq!(forger.connects("127.0.0.1", 1), Err(Error::NotGranted));
    for (address, port) in [
        ("127.0.0.2", port),
        ("::ffff:127.0.0.1", port),
        ("0.0.0.0", port),
        ("127.0.0.1", 1),
        ("127.0.0.1", 0),
    ] {
        let address = address.parse().expect("an address");
        let asked = forger.asks(Request::StartConnect { address, port });
        assert_eq!(asked, Err(Error::NotGranted), "{address}");
    }
    // Nor is anybody asked where a name leads that is not granted.
    for (host, error) in
        [("localhost", Error::NotGranted), ("127.0.0.1", Error::NotGranted), (&long, Error::Malformed)]
    {
        assert_eq!(forger.asks(Request::LookUp { host: host.to_owned(), milliseconds: 10_000 }), Err(error));
    }
    assert!(listener.accept().is_err(), "nobody was asked");
    let handle = forger.connects("127.0.0.1", port).expect("granted");
    assert!(listener.accept().is_ok());
    // The grant goes, and the connection with it.
    forger.shared.set_powers(Powers::default());
    assert_eq!(forger.says(handle, Data::Inline(b"x".to_vec())), Err(Error::NotGranted));
    assert_eq!(forger.connects("127.0.0.1", port), Err(Error::NotGranted));
    assert!(listener.accept().is_err(), "nobody was asked again");
}

#[test]
fn the_connection_of_another_is_out_of_reach() {
    let stage = Stage::new();
    let (listener, port, powers) = server();
    let mut holder = stage.forger("holder", powers.clone());
    let mut forger = stage.forger("forger", powers.clone());
    let handle = holder.connects("127.0.0.1", port).expect("granted");
    for handle in [handle, 0, handle + 1, Handle::MAX] {
        for request in [
            Request::SocketRead { handle, length: 1, milliseconds: 0 },
            Request::SocketWait { wanted: vec![(handle, Side::Input)], milliseconds: 0 },
            Request::FinishConnect { handle },
            Request::SocketShutDown { handle },
            Request::SocketClose { handle },
            Request::SocketReset { handle },
            // Numbers of one kind mean nothing of another.
            Request::FetchRead { handle },
            Request::Read { handle, offset: 0, length: 1 },
        ] {
            let said = format!("{request:?}");
            assert!(matches!(forger.asks(request), Err(Error::NotFound | Error::NotGranted)), "{said}");
        }
        assert_eq!(forger.says(handle, Data::Inline(b"forged".to_vec())), Err(Error::NotFound));
    }
    assert_eq!(forger.asks(Request::CloseAll), Ok(Reply::Done));
    assert!(holder.requests.keeps_something(), "its process goes on");
    let window = Data::Window(DATA_BYTES_MAX as u32 + 1);
    assert_eq!(holder.says(handle, window), Err(Error::TooLarge));

    // Nor does who is asked for the app's opinion have its connections, or end them.
    let (app, _) = stage.app("holder", powers);
    let shared = Arc::clone(&holder.shared);
    let looking = Requests::looking(&stage.world.fs, &app, stage.services.clone(), shared).expect("made");
    let mut judge = Forger::of(looking, Arc::clone(&holder.shared));
    assert_eq!(judge.says(handle, Data::Inline(b"judged".to_vec())), Err(Error::NotGranted));
    assert_eq!(judge.connects("127.0.0.1", port), Err(Error::NotGranted));
    for request in [
        Request::LookUp { host: "localhost".to_owned(), milliseconds: 10_000 },
        Request::StartConnect { address: Ipv4Addr::LOCALHOST.into(), port },
        Request::FinishConnect { handle },
        Request::SocketWait { wanted: vec![(handle, Side::Output)], milliseconds: 0 },
        Request::SocketReset { handle },
    ] {
        assert_eq!(judge.asks(request), Err(Error::NotGranted));
    }
    assert_eq!(judge.asks(Request::CloseAll), Ok(Reply::Done));

    assert_eq!(holder.says(handle, Data::Inline(b"own".to_vec())), Ok(Reply::Written(3)));
    let mut far = listener.accept().expect("the only one").0;
    assert!(listener.accept().is_err());
    assert_eq!(holder.asks(Request::CloseAll), Ok(Reply::Done));
    let mut heard = String::new();
    far.set_nonblocking(false).expect("set");
    far.read_to_string(&mut heard).expect("read");
    assert_eq!(heard, "own");
    assert!(!holder.requests.keeps_something());
}
