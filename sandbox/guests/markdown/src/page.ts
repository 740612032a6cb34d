// From Markdown to a page that does nothing but show it.

import { Marked, type Token, type Tokens } from "marked";

const STYLE = "body{font:16px/1.5 sans-serif;max-width:45em;margin:2em auto;padding:0 1em}pre{overflow:auto}";

const marked = new Marked({
    async: false,
    // HTML in a note is shown, not meant.
    renderer: { html: ({ text }) => escaped(text) },
    walkTokens,
});

/** The page of a note, and its title: the first heading, or else the file's name. */
export function page(path: string, markdown: string): { title: string; html: string } {
    const heading = marked.lexer(markdown).find((token): token is Tokens.Heading => token.type === "heading");
    const title = heading?.text ?? path.slice(path.lastIndexOf("/") + 1).replace(/\.md$/, "");
    return { title, html: framed(title, marked.parse(markdown) as string) };
}

/** The list of all pages. */
export function contents(titles: Map<string, string>): string {
    const item = ([path, title]: [string, string]) => {
        const address = path.replace(/\.md$/, ".html").split("/").map(encodeURIComponent).join("/");
        return `<li><a href="${address}">${escaped(title)}</a>\n`;
    };
    return framed("Notes", `<h1>Notes</h1>\n<ul>\n${[...titles].map(item).join("")}</ul>\n`);
}

/** Links between notes lead to their pages. One that would run something leads nowhere. */
function walkTokens(token: Token): void {
    if (token.type !== "link" && token.type !== "image") {
        return;
    }
    const scheme = /^[^/?#]*:/.exec(token.href)?.[0].toLowerCase();
    if (scheme === undefined) {
        const address = token.href.replace(/\.md(?=$|[?#])/, ".html");
        // What is an entity in the note would be one in the page, and might be the colon behind a scheme.
        token.href = address.replace(/&amp;/g, "&").replace(/&/g, "&amp;");
    } else if (!["http:", "https:", "mailto:"].includes(scheme)) {
        token.href = "#";
    }
}

function framed(title: string, body: string): string {
    return `<!doctype html>\n<meta charset="utf-8">\n<title>${escaped(title)}</title>\n<style>${STYLE}</style>\n${body}`;
}

function escaped(text: string): string {
    return text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;").replace(/"/g, "&quot;");
}
