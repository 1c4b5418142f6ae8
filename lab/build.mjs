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
const script = await build({ ...options, entryPoints: ["main.ts"], format: "iife", target: "es2022" });
const style = await build({ ...options, entryPoints: ["style.css"], target: ["chrome115", "firefox115", "safari16"] });
const [js, css] = [script, style].map((result) => result.outputFiles[0].text.trim().replaceAll("</", "<\\/"));
const page = readFileSync(`${here}page.html`, "utf8").replace("/*css*/", () => css).replace("/*js*/", () => js);
writeFileSync(process.argv[2] ?? `${here}../src/retrograde/laboratory/lab.html`, page);
