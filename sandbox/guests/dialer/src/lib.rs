//! Does what files below the grant `box` say, by the sockets of WASI, and logs what came of it: how tests see whom a program reaches
//! that was not written for Blocktree.

wit_bindgen::generate!({ path: "../../wit", world: "service" });

use std::cell::{Cell, RefCell};

use blocktree::app::files;
use blocktree::app::http_exchange::Exchange;
use blocktree::app::log::{self, Level};
use exports::blocktree::app::events::{Event, Guest};
use exports::blocktree::app::http_handler;
use wasip2::clocks::monotonic_clock;
use wasip2::filesystem::preopens::get_directories;
use wasip2::filesystem::types::filesystem_error_code;
use wasip2::io::poll::poll;
use wasip2::io::streams::{InputStream, OutputStream, StreamError};
use wasip2::sockets::instance_network::instance_network;
use wasip2::sockets::ip_name_lookup::resolve_addresses;
use wasip2::sockets::network::{
    ErrorCode, IpAddress, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, Ipv6SocketAddress,
};
use wasip2::sockets::tcp::{ShutdownType, TcpSocket};
use wasip2::sockets::tcp_create_socket::create_tcp_socket;
use wasip2::sockets::udp_create_socket::create_udp_socket;

/// Who takes nothing for so long takes no more.
const STUCK_NANOSECONDS: u64 = 500_000_000;

/// What a program has that is connected. Streams end before their socket.
struct Connection {
    input: InputStream,
    output: OutputStream,
    socket: TcpSocket,
}

thread_local! {
    /// Those that it keeps from one command to the next.
    static OPEN: RefCell<Vec<Connection>> = const { RefCell::new(Vec::new()) };
    /// Whether it could wait before it was asked anything.
    static HAS_WAITED: Cell<bool> = const { Cell::new(false) };
}

/// Called when an instance is made, as what the engines of other languages begin with.
#[unsafe(export_name = "_initialize")]
extern "C" fn initialize() {
    monotonic_clock::subscribe_duration(1_000_000).block();
    HAS_WAITED.set(true);
}

struct Dialer;
export!(Dialer);

impl Guest for Dialer {
    fn handle(event: Event) -> Result<(), String> {
        let Event::Written(change) = event else { return Ok(()) };
        if !change.path.ends_with(".do") {
            return Ok(());
        }
        let told = |error: files::Error| error.name().to_owned();
        let text = files::open("box", &change.path).and_then(|file| file.read(0, 1 << 20)).map_err(told)?;
        for line in String::from_utf8_lossy(&text).lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let outcome = run(&words).unwrap_or_else(|failure| failure);
            log::write(Level::Info, &format!("{line} -> {outcome}"));
        }
        Ok(())
    }
}

/// The parts of the path are a command; what came of it is the answer.
impl http_handler::Guest for Dialer {
    fn handle(request: http_handler::Request, exchange: Exchange) -> Result<(), String> {
        let words: Vec<&str> = request.path.trim_matches('/').split('/').collect();
        let outcome = run(&words).unwrap_or_else(|failure| failure);
        let told = |error: files::Error| error.name().to_owned();
        exchange.respond(200, &[]).map_err(told)?;
        exchange.write(outcome.as_bytes()).map_err(told)
    }
}

fn run(words: &[&str]) -> Result<String, String> {
    match words {
        ["has-waited"] => Ok(HAS_WAITED.get().to_string()),
        ["connect", host, port] => {
            let connection = connect(host, number(port)?)?;
            OPEN.with_borrow_mut(|open| open.push(connection));
            Ok("ok".to_owned())
        }
        // Begins, and does not wait for it for longer than that.
        ["knock", host, port, milliseconds] => {
            let (socket, early) = begin(look_up(host)?, number(port)?)?;
            let over = monotonic_clock::subscribe_duration(number::<u64>(milliseconds)? * 1_000_000);
            let ready = poll(&[&over, &socket.subscribe()]);
            let outcome = socket.finish_connect().map_or_else(said, |_| "ok".to_owned());
            Ok(format!("{early} {ready:?} {outcome}"))
        }
        ["hoard", host, port] => {
            let mut open = Vec::new();
            loop {
                match connect(host, number(port)?) {
                    Ok(connection) => open.push(connection),
                    Err(failure) => return Ok(format!("{failure} after {}", open.len())),
                }
            }
        }
        // As many sockets as there can be, and then as many addresses; each socket can still be waited for.
        ["hoard-sockets"] => {
            let (sockets, why) = as_many(|| create_tcp_socket(IpAddressFamily::Ipv4));
            let (_names, also_why) = as_many(|| resolve_addresses(&instance_network(), "127.0.0.1"));
            let waiting: Vec<_> = sockets.iter().map(TcpSocket::subscribe).collect();
            Ok(format!("{why} {also_why} {}", waiting.len()))
        }
        // What else stands there tells its line of the log from others.
        ["hang-up", ..] => Ok(format!("ok {}", OPEN.take().len())),
        ["echo", host, port, bytes] => echo(connect(host, number(port)?)?, number(bytes)?),
        ["say", text] => with_last(|Connection { output, .. }| {
            output.blocking_write_and_flush(text.as_bytes()).map_err(broken)?;
            Ok("ok".to_owned())
        }),
        // And does not wait until that is sent.
        ["say-and-leave", bytes] => with_last(|connection| say_at_once(connection, number(bytes)?)),
        ["say-and-drop", bytes] => {
            let connection = OPEN.with_borrow_mut(Vec::pop).ok_or("none")?;
            say_at_once(&connection, number(bytes)?)
        }
        // Until nobody takes any more, and something is left.
        ["fill"] => with_last(fill),
        ["fill-and-drop"] => fill(&OPEN.with_borrow_mut(Vec::pop).ok_or("none")?),
        ["panic"] => panic!("as I was told"),
        ["say-much"] => with_last(|Connection { output, .. }| {
            loop {
                output.blocking_write_and_flush(&[b'x'; 4096]).map_err(broken)?;
            }
        }),
        ["hear"] => with_last(|Connection { input, .. }| heard(input.blocking_read(100))),
        ["hear-at-once"] => with_last(|Connection { input, .. }| heard(input.read(100))),
        // Which of its connections has something to say.
        ["who-speaks", milliseconds] => {
            let milliseconds: u64 = number(milliseconds)?;
            OPEN.with_borrow(|open| {
                let over = monotonic_clock::subscribe_duration(milliseconds * 1_000_000);
                let mut wanted: Vec<_> = open.iter().map(|connection| connection.input.subscribe()).collect();
                wanted.push(over);
                let ready = poll(&wanted.iter().collect::<Vec<_>>());
                let agrees = (0..).zip(&wanted).all(|(place, one)| one.ready() == ready.contains(&place));
                Ok(format!("{ready:?} {agrees}"))
            })
        }
        ["sleep", milliseconds] => {
            let began = monotonic_clock::now();
            let nanoseconds = number::<u64>(milliseconds)? * 1_000_000;
            monotonic_clock::subscribe_duration(nanoseconds).block();
            Ok(format!("{}", monotonic_clock::now() - began >= nanoseconds))
        }
        ["listen"] => {
            let socket = create_tcp_socket(IpAddressFamily::Ipv4).map_err(said)?;
            let address = Ipv4SocketAddress { port: 0, address: (127, 0, 0, 1) };
            let bound = socket.start_bind(&instance_network(), IpSocketAddress::Ipv4(address)).map_err(said);
            let listening = socket.start_listen().map_err(said);
            let accepted = socket.accept().map(drop).map_err(said);
            Ok(format!("{bound:?} {listening:?} {accepted:?} {}", socket.is_listening()))
        }
        ["datagram"] => create_udp_socket(IpAddressFamily::Ipv4).map(|_| "a socket".to_owned()).map_err(said),
        // There are none, so nothing is ever asked of one; but it must be there for standard libraries, which would.
        ["folders"] => {
            let folders = get_directories();
            let kinds = folders.iter().map(|(folder, _)| folder.get_type());
            Ok(format!("{}", kinds.filter(Result::is_ok).count()))
        }
        _ => Err("what?".to_owned()),
    }
}

/// As many as there can be, and why there are no more.
fn as_many<T>(make: impl Fn() -> Result<T, ErrorCode>) -> (Vec<T>, String) {
    let mut made = Vec::new();
    loop {
        match make() {
            Ok(one) => made.push(one),
            Err(code) => return (made, said(code)),
        }
    }
}

fn look_up(host: &str) -> Result<IpAddress, String> {
    let addresses = resolve_addresses(&instance_network(), host).map_err(said)?;
    addresses.subscribe().block();
    addresses.resolve_next_address().map_err(said)?.ok_or_else(|| "no address".to_owned())
}

/// A socket that connects, and what it says to whom asks for that before it does.
fn begin(address: IpAddress, port: u16) -> Result<(TcpSocket, String), String> {
    let (family, address) = match address {
        IpAddress::Ipv4(address) => {
            (IpAddressFamily::Ipv4, IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address }))
        }
        IpAddress::Ipv6(address) => {
            let address = Ipv6SocketAddress { port, flow_info: 0, address, scope_id: 0 };
            (IpAddressFamily::Ipv6, IpSocketAddress::Ipv6(address))
        }
    };
    let socket = create_tcp_socket(family).map_err(said)?;
    let early = socket.finish_connect().map_or_else(said, |_| "ok".to_owned());
    socket.start_connect(&instance_network(), address).map_err(said)?;
    Ok((socket, early))
}

/// As a program does that knows a name and waits for each step.
fn connect(host: &str, port: u16) -> Result<Connection, String> {
    let (socket, _) = begin(look_up(host)?, port)?;
    let ready = socket.subscribe();
    loop {
        match socket.finish_connect() {
            Ok((input, output)) => {
                drop(ready);
                return Ok(Connection { input, output, socket });
            }
            Err(ErrorCode::WouldBlock) => ready.block(),
            Err(code) => return Err(said(code)),
        }
    }
}

/// Sends so many bytes to somebody who sends them back, says that no more come, and reads to the end.
fn echo(connection: Connection, bytes: usize) -> Result<String, String> {
    // The last ends first: what is waited for, what has it, its socket.
    let Connection { socket, input, output } = connection;
    let (can_read, can_write) = (input.subscribe(), output.subscribe());
    let data: Vec<u8> = (0..bytes).map(|at| (at % 251) as u8).collect();
    let (mut sent, mut back) = (0, Vec::new());
    let end = loop {
        let wanted = if sent < data.len() { vec![&can_read, &can_write] } else { vec![&can_read] };
        let ready = poll(&wanted);
        if ready.contains(&1) {
            let room = output.check_write().map_err(broken)? as usize;
            if room == 0 {
                return Err("ready, and there is no room".to_owned());
            }
            let end = data.len().min(sent + room);
            output.write(&data[sent..end]).map_err(broken)?;
            sent = end;
            if sent == data.len() {
                socket.shutdown(ShutdownType::Send).map_err(said)?;
            }
        }
        if ready.contains(&0) {
            match input.read(1 << 16) {
                Ok(part) if part.is_empty() => return Err("ready, and nothing has come".to_owned()),
                Ok(part) => back.extend(part),
                Err(StreamError::Closed) => break output.check_write().map_err(broken),
                Err(error) => return Err(broken(error)),
            }
        }
    };
    Ok(format!("ok {} {}", back == data, end.err().unwrap_or_default()))
}

/// Says as much of so many bytes as there is room for; how many are left.
fn say_at_once(Connection { output, .. }: &Connection, bytes: usize) -> Result<String, String> {
    let mut left = bytes;
    while left > 0 {
        let room = output.check_write().map_err(broken)? as usize;
        if room == 0 {
            break;
        }
        let part = room.min(left);
        output.write(&vec![b'x'; part]).map_err(broken)?;
        left -= part;
    }
    Ok(format!("ok {left}"))
}

/// Writes until there is no room for a while; how much.
fn fill(Connection { output, .. }: &Connection) -> Result<String, String> {
    let mut bytes = 0;
    loop {
        let over = monotonic_clock::subscribe_duration(STUCK_NANOSECONDS);
        if !poll(&[&output.subscribe(), &over]).contains(&0) {
            return Ok(format!("ok {bytes}"));
        }
        let room = output.check_write().map_err(broken)? as usize;
        output.write(&vec![b'x'; room]).map_err(broken)?;
        bytes += room;
    }
}

fn with_last(run: impl FnOnce(&Connection) -> Result<String, String>) -> Result<String, String> {
    OPEN.with_borrow(|open| open.last().map_or_else(|| Err("none".to_owned()), run))
}

fn heard(came: Result<Vec<u8>, StreamError>) -> Result<String, String> {
    came.map(|bytes| format!("ok {}", String::from_utf8_lossy(&bytes))).map_err(broken)
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| "a number".to_owned())
}

fn said(code: ErrorCode) -> String {
    code.name().to_owned()
}

fn broken(error: StreamError) -> String {
    match error {
        // As standard libraries do, which ask whether it was a file that failed.
        StreamError::LastOperationFailed(failure) => match filesystem_error_code(&failure) {
            Some(code) => code.name().to_owned(),
            None => failure.to_debug_string(),
        },
        StreamError::Closed => "closed".to_owned(),
    }
}
