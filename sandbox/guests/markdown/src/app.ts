// Makes a web page of each Markdown note below the grant `notes`, below the grant `pages`, as notes come, change, move and go;
// and shows the pages, with a list of them, to browsers.

import type { Events } from "blocktree:app/events@0.1.0";
import * as files from "blocktree:app/files@0.1.0";
import type { Header } from "blocktree:app/http-exchange@0.1.0";
import type { HttpHandler } from "blocktree:app/http-handler@0.1.0";
import * as kv from "blocktree:app/kv@0.1.0";

import { answer, decode, encode, list, read, remove, unless, write } from "../blocktree/kit";
import { contents, page } from "./page";
import * as titles from "./titles";

const NOTES = "notes";
const PAGES = "pages";
/** There once everything that was in the folder before the app has a page. */
const LOOKED_AT_ALL = "looked-at-all";

export const events: Events = {
    handle(event) {
        lookAtAllOnce();
        switch (event.tag) {
            case "written":
                lookAt(event.val.path);
                break;
            case "renamed":
                if (event.val.oldPath !== null) {
                    forget(event.val.oldPath);
                }
                lookAt(event.val.path);
                break;
            case "deleted":
                forget(event.val.path);
                break;
            case "overflow":
                kv.delete(LOOKED_AT_ALL);
                lookAtAllOnce();
                break;
        }
    },
};

export const httpHandler: HttpHandler = {
    handle(request, exchange) {
        lookAtAllOnce();
        const headers: Header[] = [
            ["content-type", "text/html; charset=utf-8"],
            // Whatever a note says, it does nothing here.
            ["content-security-policy", "default-src 'none'; img-src 'self'; style-src 'unsafe-inline'"],
            ["cache-control", "no-store"],
        ];
        if (request.method !== "GET") {
            answer(exchange, 405, [...headers, ["allow", "GET"]], "");
            return;
        }
        const isThere = unless("not-found", () => answer(exchange, 200, headers, asked(request.path)));
        if (!isThere) {
            answer(exchange, 404, headers, "");
        }
    },
};

/** The page that a request asks for. */
function asked(path: string): string {
    if (path === "/") {
        return contents(titles.all());
    }
    try {
        path = decodeURIComponent(path.slice(1));
    } catch {
        throw new Error("not-found");
    }
    return decode(read(PAGES, path));
}

function lookAtAllOnce(): void {
    if (kv.get(LOOKED_AT_ALL) !== null) {
        return;
    }
    for (const path of titles.all().keys()) {
        if (!unless("not-found", () => files.stat(NOTES, path))) {
            forget(path);
        }
    }
    lookAt("");
    kv.set(LOOKED_AT_ALL, encode("1"));
}

/** A note, or all notes below a directory. What has gone meanwhile, an event says. */
function lookAt(path: string): void {
    unless("not-found", () => {
        const kind = path === "" ? "directory" : files.stat(NOTES, path).kind;
        if (kind === "directory") {
            for (const entry of list(NOTES, path)) {
                lookAt(path === "" ? entry.name : `${path}/${entry.name}`);
            }
        } else if (kind === "file" && path.endsWith(".md")) {
            const { title, html } = page(path, decode(read(NOTES, path)));
            write(PAGES, pageOf(path), html);
            titles.set(path, title);
        }
    });
}

/** A note that is gone, or all that were below a directory. */
function forget(path: string): void {
    for (const one of titles.all().keys()) {
        if (one === path || one.startsWith(`${path}/`)) {
            remove(PAGES, pageOf(one));
            titles.remove(one);
        }
    }
}

function pageOf(path: string): string {
    return path.replace(/\.md$/, ".html");
}
