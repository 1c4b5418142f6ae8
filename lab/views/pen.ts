/** Drawing on a canvas in the colors of the page: text, axes, color scales. */

/** Colors of the page, read from its style sheet, and those of data; `blue` and `orange` are for words. */
export interface Palette { card: string; text: string; quiet: string; line: string; grid: string; blue: string; orange: string; dark: boolean }
export const BLUE = "#3d82c4", ORANGE = "#d9711f", GREY = "#7d8590";

/** `font` is the one that was set last: to set one takes longer than to write a word. */
export interface Pen { ctx: CanvasRenderingContext2D; width: number; height: number; colors: Palette; font: string }

export function palette(element: Element): Palette {
  const style = getComputedStyle(element), read = (name: string) => style.getPropertyValue(name).trim();
  return {
    card: read("--card"), text: read("--text"), quiet: read("--quiet"), line: read("--line"), grid: read("--grid"), blue: read("--accent"), orange: read("--warn"),
    dark: read("--dark") === "1",
  };
}

type Align = { color?: string; align?: CanvasTextAlign; base?: CanvasTextBaseline; size?: number; bold?: boolean };

const FAMILY = 'system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei", sans-serif';

export function write(pen: Pen, words: string, x: number, y: number, how: Align = {}): void {
  const { ctx, colors } = pen;
  const font = `${how.bold ? 600 : 400} ${how.size ?? 11.5}px ${FAMILY}`;
  if (font !== pen.font) ctx.font = pen.font = font;
  ctx.fillStyle = how.color ?? colors.quiet;
  ctx.textAlign = how.align ?? "center";
  ctx.textBaseline = how.base ?? "middle";
  ctx.fillText(words, x, y);
}

export function line(pen: Pen, points: [number, number][], color: string, width = 1, dash: number[] = []): void {
  const { ctx } = pen;
  ctx.strokeStyle = color;
  ctx.lineWidth = width;
  ctx.setLineDash(dash);
  ctx.lineJoin = "round";
  ctx.beginPath();
  let down = false;
  for (const [x, y] of points) {
    const there = Number.isFinite(y);
    if (there && down) ctx.lineTo(x, y);
    else if (there) ctx.moveTo(x, y);
    down = there;
  }
  ctx.stroke();
  ctx.setLineDash([]);
}

/** Where numbers are in a picture: left, top, right, bottom in pixels, and the numbers at the edges. */
export interface Frame { left: number; top: number; right: number; bottom: number; x: [number, number]; y: [number, number]; log?: boolean }

export const across = ({ left, right, x }: Frame, value: number): number =>
  left + ((value - x[0]) / (x[1] - x[0] || 1)) * (right - left);

export function up({ top, bottom, y, log }: Frame, value: number): number {
  const [low, high] = log ? y.map(Math.log10) : y, at = log ? Math.log10(value) : value;
  return bottom - (Math.min(1.02, Math.max(-0.02, (at - low) / (high - low || 1)))) * (bottom - top);
}

const raised = (power: number): string => [...String(power)].map((sign) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[Number(sign)] ?? "⁻").join("");

/** A number with so many digits: 0.0123, 12.3, 1.2×10⁻⁷. */
export function number(value: number, digits = 2): string {
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "–" : value > 0 ? "∞" : "−∞";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e-3 && size < 1e5) return String(Number(value.toPrecision(digits))).replace("-", "−");
  const power = Math.floor(Math.log10(size)), factor = (value / 10 ** power).toPrecision(digits);
  return `${Number(factor) === 1 ? "" : `${Number(factor)}×`}10${raised(power)}`.replace("-", "−");
}

/** Grid lines and numbers of the left axis. */
export function leftAxis(pen: Pen, frame: Frame): void {
  const [low, high] = frame.y, ticks: number[] = [];
  if (frame.log) {
    const first = Math.ceil(Math.log10(low) - 1e-9), last = Math.floor(Math.log10(high) + 1e-9);
    const every = Math.max(1, Math.ceil((last - first) / 4));
    for (let power = first; power <= last; power++) if ((power - first) % every === 0) ticks.push(10 ** power);
  } else {
    const rough = (high - low) / 3 || 1, unit = 10 ** Math.floor(Math.log10(rough));
    const step = unit * ([1, 2, 5, 10].find((factor) => factor * unit >= rough) ?? 10);
    for (let at = Math.ceil(low / step) * step; at <= high + step / 1e6; at += step) ticks.push(Math.abs(at) < step / 1e6 ? 0 : at);
  }
  for (const tick of ticks) {
    const y = up(frame, tick);
    line(pen, [[frame.left, y], [frame.right, y]], pen.colors.grid);
    write(pen, frame.log && (tick < 0.01 || tick >= 1000) ? `10${raised(Math.round(Math.log10(tick)))}` : number(tick), frame.left - 6, y, { align: "right" });
  }
}

/** Whole numbers below the picture, as many as fit. `from` is what the number 0 is called. */
export function bottomAxis(pen: Pen, frame: Frame, label: string, from = 0): void {
  const [low, high] = frame.x, room = (frame.right - frame.left) / 26, rough = (high - low) / Math.max(2, Math.min(7, room));
  const unit = 10 ** Math.floor(Math.log10(rough || 1)), step = Math.max(1, unit * ([1, 2, 5, 10].find((f) => f * unit >= rough) ?? 10));
  const width = (frame.right - frame.left);
  for (let at = Math.ceil(low); at <= high; at++)
    if ((at + from) % step === 0 || (at === Math.ceil(low) && step === 1)) write(pen, String(at + from), across(frame, at), frame.bottom + 11);
  write(pen, label, frame.left + width / 2, frame.bottom + 27);
}

const VIRIDIS = ["440154", "482475", "414487", "355f8d", "2a788e", "21918c", "22a884", "44bf70", "7ad151", "bddf26", "fde725"].map((hex) =>
  [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16)));

/** A color as a number that an image takes: 0xAABBGGRR; 0 is none. */
export const packed = ([red, green, blue]: number[]): number => (0xff000000 | (blue << 16) | (green << 8) | red) >>> 0;

/** 256 colors from the first of `ends` to the last, evenly spaced. */
function scale(ends: number[][]): Uint32Array {
  return Uint32Array.from({ length: 256 }, (_, step) => {
    const place = (step / 255) * (ends.length - 1), i = Math.min(ends.length - 2, Math.floor(place));
    return packed(ends[i].map((from, c) => Math.round(from + (place - i) * (ends[i + 1][c] - from))));
  });
}

const RISING = scale(VIRIDIS);
const [LIGHT, DARK] = [[240, 239, 236], [38, 44, 54]].map((zero) => [scale([zero, [45, 112, 179]]), scale([zero, [217, 113, 31]])]);

/** Viridis for a part from 0 to 1. */
export const viridis = (part: number): number => RISING[Math.round(255 * Math.min(1, Math.max(0, part)))];

/** From blue (−1) over the color of the card (0) to orange (1). */
export const diverging = (part: number, dark: boolean): number =>
  (dark ? DARK : LIGHT)[part < 0 ? 0 : 1][Math.round(255 * Math.min(1, Math.abs(part))) || 0];

const paper = typeof document === "undefined" ? null : document.createElement("canvas");

type Color = (row: number, column: number) => number;

/** A matrix as an image of one pixel per entry, drawn without smoothing. */
export function sheet(rows: number, columns: number, color: Color, draw: (image: HTMLCanvasElement) => void, pen: Pen): void {
  if (!paper || !rows || !columns) return;
  paper.width = columns;
  paper.height = rows;
  const own = paper.getContext("2d", { willReadFrequently: true })!, image = own.createImageData(columns, rows);
  const pixels = new Uint32Array(image.data.buffer);
  for (let row = 0, p = 0; row < rows; row++) for (let column = 0; column < columns; column++) pixels[p++] = color(row, column);
  own.putImageData(image, 0, 0);
  pen.ctx.imageSmoothingEnabled = false;
  draw(paper);
}

/** A matrix (rows × columns) as sharp colored cells. */
export function cells(
  pen: Pen, rows: number, columns: number, x: number, y: number, width: number, height: number, color: Color,
): void {
  sheet(rows, columns, color, (image) => pen.ctx.drawImage(image, x, y, width, height), pen);
}

/** A matrix as a small picture in a frame; colors end at ± `largest`. */
export function thumbnail(
  pen: Pen, matrix: Float32Array, rows: number, columns: number, x: number, y: number, width: number, height: number, largest: number,
): void {
  cells(pen, rows, columns, x, y, width, height, (row, column) => diverging(matrix[row * columns + column] / (largest || 1), pen.colors.dark));
  pen.ctx.strokeStyle = pen.colors.line;
  pen.ctx.lineWidth = 1;
  pen.ctx.strokeRect(x - 0.5, y - 0.5, width + 1, height + 1);
}

export function largest(matrix: Float32Array): number {
  let found = 0;
  for (const value of matrix) if (Math.abs(value) > found) found = Math.abs(value);
  return found;
}
