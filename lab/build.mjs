// Bundles the laboratory into one file that needs no network: src/retrograde/laboratory/lab.html, or the path given.
import { build } from "esbuild";
import { readFileSync, writeFileSync } from "node:fs";
import wabt from "wabt";

const here = new URL(".", import.meta.url).pathname;
const assembled = async ({ path }) => {
  const module = (await wabt()).parseWat(path, readFileSync(path, "utf8"));
  return { contents: module.toBinary({}).buffer, loader: "binary" };
};
const wat = { name: "wat", setup: (builder) => builder.onLoad({ filter: /\.wat$/ }, assembled) };
const options = { bundle: true, minify: true, charset: "utf8", write: false, absWorkingDir: here, plugins: [wat] };
const scripted = (entry, plugins) => build({ ...options, entryPoints: [entry], format: "iife", target: "es2022", plugins });
const inner = { name: "script", setup: (builder) => { // ./NAME?script: the text of a script of its own
  builder.onResolve({ filter: /\?script$/ }, ({ path }) => ({ path: `${here}${path.slice(2, -7)}.ts`, namespace: "script" }));
  builder.onLoad({ filter: /./, namespace: "script" }, async ({ path }) => ({ contents: (await scripted(path, [wat])).outputFiles[0].text, loader: "text" }));
} };
const script = await scripted("main.ts", [wat, inner]);
const style = await build({ ...options, entryPoints: ["style.css"], target: ["chrome115", "firefox115", "safari16"] });
const [js, css] = [script, style].map((result) => result.outputFiles[0].text.trim().replaceAll("</", "<\\/"));
const page = readFileSync(`${here}page.html`, "utf8").replace("/*css*/", () => css).replace("/*js*/", () => js);
writeFileSync(process.argv[2] ?? `${here}../src/retrograde/laboratory/lab.html`, page);
