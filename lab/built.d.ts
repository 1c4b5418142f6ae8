/** What build.mjs makes of a file in the text format of WebAssembly: its bytes. */
declare module "*.wat" {
  const code: Uint8Array<ArrayBuffer>;
  export default code;
}

/** And of a file with all that it imports: one script, as text. */
declare module "*?script" {
  const script: string;
  export default script;
}
