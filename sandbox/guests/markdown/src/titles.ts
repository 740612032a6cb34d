// The titles of all notes by their paths, among the app's values. A key is shorter than a path may be, so there are a few
// keys, each with the notes that fall to it.

import * as kv from "blocktree:app/kv@0.1.0";

import { decode, encode } from "../blocktree/kit";

const PREFIX = "titles-";
const PARTS = 64;

type Part = Record<string, string>;

export function all(): Map<string, string> {
    const paths = kv.keys(PREFIX).flatMap((key) => Object.entries(part(key)));
    return new Map(paths.sort(([one], [other]) => (one < other ? -1 : 1)));
}

export function set(path: string, title: string): void {
    change(path, (titles) => ({ ...titles, [path]: title }));
}

export function remove(path: string): void {
    change(path, ({ [path]: _, ...others }) => others);
}

function change(path: string, how: (titles: Part) => Part): void {
    const key = keyOf(path);
    kv.set(key, encode(JSON.stringify(how(part(key)))));
}

function part(key: string): Part {
    const value = kv.get(key);
    return value === null ? {} : JSON.parse(decode(value));
}

/** FNV-1a. */
function keyOf(path: string): string {
    const hash = encode(path).reduce((hash, byte) => Math.imul(hash ^ byte, 0x01000193), 0x811c9dc5);
    return PREFIX + ((hash >>> 0) % PARTS);
}
