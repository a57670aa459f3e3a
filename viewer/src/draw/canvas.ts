// SPDX-License-Identifier: MIT
// A canvas that is as sharp as the screen: its pixels are the device's.

export interface Surface {
	canvas: HTMLCanvasElement;
	context: CanvasRenderingContext2D;
	/** CSS pixels. */
	width: number;
	height: number;
	/** Device pixels per CSS pixel. */
	ratio: number;
}

/** Sizes the canvas to `width` x `height` CSS pixels and clears it. */
export function fit(canvas: HTMLCanvasElement, width: number, height: number): Surface | null {
	const context = canvas.getContext("2d");
	const ratio = canvas.ownerDocument.defaultView?.devicePixelRatio ?? 1;
	const w = Math.max(1, Math.round(width * ratio));
	const h = Math.max(1, Math.round(height * ratio));
	if (!context) return null;
	if (canvas.width !== w || canvas.height !== h) {
		canvas.width = w;
		canvas.height = h;
		canvas.style.width = `${width}px`;
		canvas.style.height = `${height}px`;
	}
	context.setTransform(1, 0, 0, 1, 0, 0);
	context.clearRect(0, 0, w, h);
	context.setTransform(ratio, 0, 0, ratio, 0, 0);
	return { canvas, context, width, height, ratio };
}
