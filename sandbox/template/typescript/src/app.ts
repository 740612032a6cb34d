// Counts the words of each text that arrives below the grant `notes`.

import type { Events } from "blocktree:app/events@0.1.0";
import * as log from "blocktree:app/log@0.1.0";

import { decode, read } from "../blocktree/kit";

export const events: Events = {
    handle(event) {
        if (event.tag !== "written" && event.tag !== "renamed") {
            return;
        }
        const { grant, path } = event.val;
        const words = decode(read(grant, path)).split(/\s+/).filter((word) => word !== "").length;
        log.write("info", `${path}: ${words} words`);
    },
};
