import { compute } from "./api";

Object.assign(window, { retrograde: { compute } });
document.documentElement.dataset.drawn = "true";
