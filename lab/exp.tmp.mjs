import { build } from "esbuild";
const r = await build({ stdin: { contents: `export {Laboratory} from "./laboratory"; export {STORY, CASES, begun} from "./story"; export {shownOf, withChain} from "./shown"; export {DEFAULTS} from "./state"; export {Training} from "./training"`, resolveDir: process.cwd(), loader:"ts" }, bundle: true, format: "esm", write: false });
const m = await import("data:text/javascript;base64," + Buffer.from(r.outputFiles[0].text).toString("base64"));
globalThis.m = m;
const tail = (a,n=20)=>{const b=a.slice(-n);return b.reduce((x,y)=>x+y,0)/b.length};
export function go(name, patch, steps) {
  const t = new m.Training(m.begun(patch)); 
  const sh0 = m.withChain(m.shownOf(t.network,t.example(0)), t.settings.T-1, Math.max(0,t.settings.T-10));
  const s0=sh0.chain.steps.slice(1); const mean=a=>a.reduce((x,y)=>x+y,0)/a.length;
  const line=[name, "rho",t.radius().toFixed(2),"J0",mean(s0).toFixed(2), "P9",sh0.chain.products[Math.max(0,t.settings.T-10)].toExponential(1)];
  const marks=[];
  for(let i=0;i<steps;i++){t.update(); if((i+1)%Math.ceil(steps/6)===0) marks.push(tail(t.history.loss).toFixed(2)); if(t.failed){marks.push("FAIL@"+t.step);break}}
  const sh = m.withChain(m.shownOf(t.network,t.example(0)), t.settings.T-1, Math.max(0,t.settings.T-10));
  console.log(...line,"| chance",t.task.chance.toFixed(2),"loss",marks.join(" "),"norm max",Math.max(...t.history.norm.filter(Number.isFinite)).toFixed(1),"med",t.history.norm.slice().sort((a,b)=>a-b)[t.history.norm.length>>1]?.toFixed(2), "| J",mean(sh.chain.steps.slice(1)).toFixed(2),"P9",sh.chain.products[Math.max(0,t.settings.T-10)].toExponential(1));
}
const NINE={T:20,lag:9,rate:.01};
if (process.argv[2]==="all") {
m.STORY.forEach((s,i)=>s.tries.forEach((t,j)=>{ go(`story ${i+1}.${j+1}`, {...s.settings,...t.begin,...t.set}, t.train||400) }));
m.CASES.forEach((c,i)=>{go(`case ${i+1}`, c.settings, c.steps); go(`  cure`, {...c.settings,...c.cure}, 600)});
} else eval(process.argv[2]);
