// What a node offers, as `wit/blocktree.wit` says it in more words. What can fail throws an `Error` whose message is the name
// of what went wrong, such as "not-found". Numbers are exact up to 2^53, and that of times in nanoseconds is rounded.
//
// An app exports what it is called for:
//
//     export const events: Events = { handle(event) { … } };
//     export const httpHandler: HttpHandler = { handle(request, exchange) { … } };
//     export const policy: Policy = { judge(operation) { … } };
//
// None of these may be `async`: the node waits for the call, and nothing goes on after it.

declare module "blocktree:app/types@0.1.0" {
    export type Kind = "file" | "directory" | "symlink" | "other";

    export interface Status {
        kind: Kind;
        /** In bytes. */
        size: number;
        /** Nanoseconds since 1970. */
        modified: number;
        changed: number;
    }

    export interface Entry {
        name: string;
        kind: Kind;
    }
}

declare module "blocktree:app/files@0.1.0" {
    import type { Entry, Status } from "blocktree:app/types@0.1.0";

    /** Few may be open at once: say `using file = open(…)`, and it is closed at the end of the block. */
    export interface File extends Disposable {
        /** Fewer bytes than asked for only at the end of the file. At most 1 MiB at once. */
        read(offset: number, length: number): Uint8Array;
        write(offset: number, bytes: Uint8Array): void;
        resize(size: number): void;
        stat(): Status;
        sync(): void;
        /** Of a file from `create`: gives it its name, in place of a file that has it. */
        finish(): void;
        fence(grant: string, path: string, token: number): void;
    }

    export function open(grant: string, path: string): File;
    export function edit(grant: string, path: string): File;
    export function create(grant: string, path: string): File;
    export function stat(grant: string, path: string): Status;
    /** Some entries, and from where to go on; `null` at the end. */
    export function list(grant: string, path: string, after: string | null): [Entry[], string | null];
    export function rename(grant: string, path: string, newPath: string): void;
    export function remove(grant: string, path: string): void;
    export function makeDirectory(grant: string, path: string): void;
}

declare module "blocktree:app/locks@0.1.0" {
    export interface Lock extends Disposable {
        token(): number;
    }

    export function take(grant: string, path: string): Lock;
}

declare module "blocktree:app/messages@0.1.0" {
    export function send(app: string, bytes: Uint8Array): void;
}

declare module "blocktree:app/kv@0.1.0" {
    export function get(key: string): Uint8Array | null;
    export function set(key: string, value: Uint8Array): void;
    function remove(key: string): void;
    export { remove as delete };
    export function keys(prefix: string): string[];
}

declare module "blocktree:app/log@0.1.0" {
    export type Level = "debug" | "info" | "warn" | "error";

    export function write(level: Level, text: string): void;
}

declare module "blocktree:app/clock@0.1.0" {
    /** Nanoseconds since 1970. */
    export function now(): number;
    export function monotonic(): number;
}

declare module "blocktree:app/random@0.1.0" {
    /** For everything that nobody may guess: `Math.random` begins alike in each instance. */
    export function bytes(length: number): Uint8Array;
}

declare module "blocktree:app/events@0.1.0" {
    export interface Change {
        grant: string;
        path: string;
    }

    export interface Rename {
        grant: string;
        oldPath: string | null;
        path: string;
    }

    export interface Message {
        app: string;
        bytes: Uint8Array;
    }

    export type Event =
        | { tag: "written"; val: Change }
        | { tag: "created"; val: Change }
        | { tag: "renamed"; val: Rename }
        | { tag: "deleted"; val: Change }
        | { tag: "attributes"; val: Change }
        | { tag: "timer"; val: string }
        | { tag: "message"; val: Message }
        | { tag: "overflow" };

    export interface Events {
        /** If it throws, the event comes again later, a few times. */
        handle(event: Event): undefined;
    }
}

declare module "blocktree:app/policy@0.1.0" {
    import type { Kind } from "blocktree:app/types@0.1.0";

    export interface Subject {
        grant: string;
        path: string;
        kind: Kind;
        permissions: number;
    }

    export interface Move {
        oldPath: string | null;
        to: Subject;
    }

    export type Operation =
        | { tag: "create"; val: Subject }
        | { tag: "modify"; val: Subject }
        | { tag: "remove"; val: Subject }
        | { tag: "rename"; val: Move }
        | { tag: "attributes"; val: Subject };

    export type Verdict = "allow" | "refuse";

    export interface Policy {
        judge(operation: Operation): Verdict;
    }
}

declare module "blocktree:app/http-exchange@0.1.0" {
    /** A name in lower case, and a value. */
    export type Header = [string, string];

    export interface Exchange extends Disposable {
        /** The next bytes of the request's body; none at its end. */
        read(): Uint8Array;
        respond(status: number, headers: Header[]): void;
        /** At most 1 MiB. */
        write(bytes: Uint8Array): void;
    }
}

declare module "blocktree:app/http-handler@0.1.0" {
    import type { Exchange, Header } from "blocktree:app/http-exchange@0.1.0";

    export interface Request {
        /** In capitals. */
        method: string;
        /** Behind the app's name, as it was sent. */
        path: string;
        query: string | null;
        headers: Header[];
    }

    export interface HttpHandler {
        handle(request: Request, exchange: Exchange): undefined;
    }
}

declare module "blocktree:app/http-client@0.1.0" {
    import type { Header } from "blocktree:app/http-exchange@0.1.0";

    export interface Request {
        method: string;
        url: string;
        headers: Header[];
        /** At most 1 MiB. */
        body: Uint8Array;
    }

    export interface Response extends Disposable {
        status(): number;
        headers(): Header[];
        /** The next bytes of the body as they come; none at its end. */
        read(): Uint8Array;
    }

    export function send(request: Request): Response;
}

declare module "blocktree:app/sockets@0.1.0" {
    /** Few may be open at once: say `using connection = connect(…)`. */
    export interface Connection extends Disposable {
        /** The next bytes as they come; none at their end. Waits so long for them, at most ten seconds. */
        read(milliseconds: number): Uint8Array;
        /** At most 1 MiB; answers how many of the bytes were taken. Waits so long for room, at most ten seconds. */
        write(bytes: Uint8Array, milliseconds: number): number;
        /** Says that no more comes from here. */
        shutDown(): void;
    }

    export function connect(host: string, port: number): Connection;
}
