// SPDX-License-Identifier: MIT
// The one place that turns numbers into words: three significant digits, a unit, a narrow no-break space between.

const NARROW = "\u202f";

/** Three significant digits without an exponent: 1.23, 12.3, 123. */
function three(value: number): string {
	const size = Math.abs(value);
	if (size >= 99.95) return String(Math.round(value));
	return size >= 9.995 ? value.toFixed(1) : value.toFixed(2);
}

const TIMES: readonly (readonly [number, string])[] = [
	[1, "ns"],
	[1e3, "µs"],
	[1e6, "ms"],
	[1e9, "s"],
];

/** Nanoseconds with a unit: 740 ns, 1.23 µs, 12.3 ms, 4.56 s; a minute and more as 2 min 5 s, 3 h 12 min. */
export function time(ns: number): string {
	if (!Number.isFinite(ns)) return "–";
	if (ns < 0) return "−" + time(-ns);
	if (ns === 0) return "0";
	const seconds = Math.round(ns / 1e9);
	if (ns >= 59.95e9) {
		if (seconds >= 3600 * 48) return `${three(seconds / 86400)}${NARROW}d`;
		const [big, small, per] = seconds >= 3600 ? ["h", "min", 3600] : ["min", "s", 60];
		const rest = Math.floor((seconds % per) / (per / 60));
		return `${Math.floor(seconds / per)}${NARROW}${big}` + (rest ? ` ${rest}${NARROW}${small}` : "");
	}
	if (ns < 1) return `<${NARROW}1${NARROW}ns`;
	for (let i = 0; i < TIMES.length; i++) {
		const [size, unit] = TIMES[i]!;
		const value = ns / size;
		// 999.6 µs would print as "1000 µs": the next unit takes over where the rounding does.
		if (value < 999.5 || i === TIMES.length - 1) {
			const digits = i === 0 ? String(Math.round(value)) : three(value);
			return digits + NARROW + unit;
		}
	}
	return "–";
}

/** Axis labels: as time(), without the zeros that only say how round the number is. */
export function timeShort(ns: number): string {
	return time(ns).replace(/\.0+(?=\D)/, "").replace(/(\.\d*[1-9])0+(?=\D)/, "$1");
}

/** A share of one: 91 %, 6.2 %, 0.3 %, <0.1 %. */
export function share(part: number, whole = 1): string {
	if (!(whole > 0) || !Number.isFinite(part)) return "–";
	const percent = (100 * part) / whole;
	if (percent === 0) return `0${NARROW}%`;
	if (percent < 0.05) return `<${NARROW}0.1${NARROW}%`;
	return (percent < 9.95 ? percent.toFixed(1).replace(/\.0$/, "") : String(Math.round(percent))) + `${NARROW}%`;
}

/** Processors in use as percent of one: 0.12 %, 6.2 %, 150 %. */
export function ofACore(cores: number): string {
	if (!Number.isFinite(cores)) return "–";
	const percent = 100 * cores;
	if (percent > 0 && percent < 0.005) return `<${NARROW}0.01${NARROW}%`;
	return percent >= 0.995 || percent === 0 ? share(cores) : `${percent.toFixed(2)}${NARROW}%`;
}

/** A count: 732, 12 345, 1.23 M. */
export function count(value: number): string {
	if (!Number.isFinite(value)) return "–";
	if (Math.abs(value) < 99_999.5) return String(Math.round(value)).replace(/\B(?=(\d{3})+$)/g, NARROW);
	if (Math.abs(value) < 999.5e3) return `${three(value / 1e3)}${NARROW}k`;
	return value < 999.5e6 ? `${three(value / 1e6)}${NARROW}M` : `${three(value / 1e9)}${NARROW}G`;
}

/** Per second: 83.4 /s, 0.02 /s. */
export function rate(perSecond: number): string {
	if (!Number.isFinite(perSecond)) return "–";
	if (perSecond === 0) return "0";
	const text = perSecond >= 999.5 ? count(perSecond) : perSecond < 0.01 ? "<0.01" : three(perSecond);
	return text + NARROW + "/s";
}

export function bytes(value: number): string {
	if (value < 1000) return `${value}${NARROW}B`;
	if (value < 999.5e3) return `${three(value / 1e3)}${NARROW}kB`;
	return value < 999.5e6 ? `${three(value / 1e6)}${NARROW}MB` : `${three(value / 1e9)}${NARROW}GB`;
}

/** Wall time of day, 24 hours. */
export function clock(unixSeconds: number): string {
	return new Date(unixSeconds * 1000).toTimeString().slice(0, 8);
}

export function dateTime(unixSeconds: number): string {
	const date = new Date(unixSeconds * 1000);
	const two = (n: number) => String(n).padStart(2, "0");
	return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${clock(unixSeconds)}`;
}

export function plural(n: number, one: string, many = one + "s"): string {
	return `${count(n)} ${n === 1 ? one : many}`;
}
