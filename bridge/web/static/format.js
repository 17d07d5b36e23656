// Figures as people read them.

const plain = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const fine = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

export const number = (value) => (Math.abs(value) >= 100 || Number.isInteger(value) ? plain : fine).format(value);
export const percent = (share) => `${fine.format(100 * share)} %`;

export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  for (; value >= 1024 && at < units.length - 1; at++) value /= 1024;
  return `${fine.format(value)} ${units[at]}`;
}

export function milliseconds(value) {
  if (Math.abs(value) >= 1000) return `${fine.format(value / 1000)} s`;
  if (Math.abs(value) >= 1 || value === 0) return `${fine.format(value)} ms`;
  return `${fine.format(value * 1000)} µs`;
}

export function seconds(value) {
  if (value < 120) return `${fine.format(value)} s`;
  if (value < 7200) return `${plain.format(value / 60)} min`;
  if (value < 172800) return `${plain.format(value / 3600)} h`;
  return `${plain.format(value / 86400)} days`;
}

export const clock = (ms) => (ms > 0 && ms < 8.64e15 ? new Date(ms).toLocaleString(undefined, { dateStyle: "short", timeStyle: "medium" }) : "at no known time");
