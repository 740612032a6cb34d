// What nearly every app needs: whole files, text as bytes, and answers to HTTP requests.

import * as files from "blocktree:app/files@0.1.0";
import type { Exchange, Header } from "blocktree:app/http-exchange@0.1.0";
import type { Entry } from "blocktree:app/types@0.1.0";

/** The most that a file or an exchange takes or gives at once. */
const PART_BYTES = 1 << 20;
/** The most arguments of one call that the engine takes in any case. */
const UNITS = 4096;

export function encode(text: string): Uint8Array {
    // There is no TextEncoder. What `encodeURIComponent` writes with `%` are the bytes of UTF-8.
    const bytes = encodeURIComponent(text.toWellFormed()).replace(/%(..)/g, (_, digits) =>
        String.fromCharCode(parseInt(digits, 16)),
    );
    return Uint8Array.from({ length: bytes.length }, (_, at) => bytes.charCodeAt(at));
}

/** Throws if it is not UTF-8. */
export function decode(bytes: Uint8Array): string {
    let text = "";
    let units: number[] = [];
    for (let at = 0; at < bytes.length; ) {
        const first = bytes[at]!;
        const length = first < 0x80 ? 1 : first < 0xc2 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : first < 0xf5 ? 4 : 0;
        let point = length < 2 ? first : first & (0x7f >> length);
        let isWhole = length > 0 && at + length <= bytes.length;
        for (let next = at + 1; isWhole && next < at + length; next++) {
            isWhole = (bytes[next]! & 0xc0) === 0x80;
            point = (point << 6) | (bytes[next]! & 0x3f);
        }
        const least = [0, 0, 0x80, 0x800, 0x10000][length]!;
        if (!isWhole || point < least || point > 0x10ffff || (point >= 0xd800 && point < 0xe000)) {
            throw new Error(`no UTF-8 at byte ${at}`);
        }
        units.push(point);
        at += length;
        if (units.length === UNITS || at === bytes.length) {
            text += String.fromCodePoint(...units);
            units = [];
        }
    }
    return text;
}

/** A whole file. */
export function read(grant: string, path: string): Uint8Array {
    using file = files.open(grant, path);
    const parts: Uint8Array[] = [];
    let length = 0;
    for (;;) {
        const part = file.read(length, PART_BYTES);
        if (part.length === 0) {
            break;
        }
        parts.push(part);
        length += part.length;
    }
    const whole = new Uint8Array(length);
    let at = 0;
    for (const part of parts) {
        whole.set(part, at);
        at += part.length;
    }
    return whole;
}

/** A new file that appears whole, or in place of one that is there. Directories above it are made. */
export function write(grant: string, path: string, contents: Uint8Array | string): void {
    const bytes = typeof contents === "string" ? encode(contents) : contents;
    makeAbove(grant, path);
    using file = files.create(grant, path);
    for (let at = 0; at < bytes.length; at += PART_BYTES) {
        file.write(at, bytes.subarray(at, at + PART_BYTES));
    }
    file.finish();
}

/** Removes what is there; whether something was. */
export function remove(grant: string, path: string): boolean {
    return unless("not-found", () => files.remove(grant, path));
}

/** All entries of a directory. */
export function list(grant: string, path: string): Entry[] {
    const all: Entry[] = [];
    let after: string | null = null;
    do {
        const [entries, next]: [Entry[], string | null] = files.list(grant, path, after);
        all.push(...entries);
        after = next;
    } while (after !== null);
    return all;
}

/** Answers a request with all that there is to say. */
export function answer(exchange: Exchange, status: number, headers: Header[], body: string): void {
    const bytes = encode(body);
    exchange.respond(status, [...headers, ["content-length", String(bytes.length)]]);
    for (let at = 0; at < bytes.length; at += PART_BYTES) {
        exchange.write(bytes.subarray(at, at + PART_BYTES));
    }
}

/** Whether it was done; false if it failed for this one reason. */
export function unless(reason: string, what: () => void): boolean {
    try {
        what();
        return true;
    } catch (error) {
        if (error instanceof Error && error.message === reason) {
            return false;
        }
        throw error;
    }
}

function makeAbove(grant: string, path: string): void {
    for (let end = path.indexOf("/"); end > 0; end = path.indexOf("/", end + 1)) {
        unless("exists", () => files.makeDirectory(grant, path.slice(0, end)));
    }
}
