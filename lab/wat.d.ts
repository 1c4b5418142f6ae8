/** What build.mjs makes of a file in the text format of WebAssembly: its bytes. */
declare module "*.wat" {
  const code: Uint8Array<ArrayBuffer>;
  export default code;
}
