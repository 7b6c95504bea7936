import { type Figure, groupBy, median } from './harness.ts'

/** An SVG file, named without its ending. */
export interface Chart {
  readonly name: string
  readonly svg: string
}

export interface Panel {
  readonly label: string
  readonly values: readonly { readonly label: string; readonly value: number }[]
}

export interface Lines {
  readonly title: string
  readonly x: string
  readonly y: string
  /** Their settings begin with the number that is the x of the point. */
  readonly figures: readonly Figure[]
  /** Default: a line for each contender. */
  readonly seriesOf?: (figure: Figure) => string
}

const WIDTH = 820
/** Told apart on white and on black, also by most who see colours differently. */
const COLOURS = [
  '#3b82f6',
  '#d97706',
  '#10a37f',
  '#e0527a',
  '#8b5cf6',
  '#0e9fb5',
  '#9a7b4f',
  '#7f8ea3',
  '#c2410c',
  '#4d7c0f',
]

/** A page of its own for light and for dark: an image on a page does not learn the page's colours. */
const STYLE = `
  .page { fill: #ffffff } text { fill: #24292f; font: 12px system-ui, sans-serif }
  .title { font-size: 15px; font-weight: 600 } .quiet { fill: #656d76 } .grid { stroke: #d0d7de; stroke-width: 1 }
  .ours { fill: #3b82f6 } .theirs { fill: #8c959f }
  @media (prefers-color-scheme: dark) {
    .page { fill: #0d1117 } text { fill: #e6edf3 } .quiet { fill: #8b949e } .grid { stroke: #30363d }
  }`

/** One panel for each engine and setting, with one value for each contender. `only` picks settings by a part of them. */
export function panelsOf(figures: readonly Figure[], metric: string, only: readonly string[] = ['']): Panel[] {
  const shown = figures.filter(
    (figure) => figure.metric === metric && only.some((part) => figure.setting.includes(part)),
  )
  return [...groupBy(shown, ({ engine, setting }) => `${engine}: ${setting}`)].map(([label, ofPanel]) => ({
    label,
    values: ofPanel.map(({ contender, rounds }) => ({ label: contender, value: median(rounds) })),
  }))
}

/** Each value as a point on a logarithmic scale. */
export function dotChart(name: string, title: string, panels: readonly Panel[]): Chart {
  const left = 250
  const row = 20
  const scale = logarithmic(
    panels.flatMap(({ values }) => values.map(({ value }) => value)),
    [left, WIDTH - 90],
  )
  const parts: string[] = []
  let y = 44
  for (const { label, values } of panels) {
    y += 14
    parts.push(text(16, y, label, 'quiet'))
    const top = y + 8
    const bottom = top + values.length * row
    for (const tick of scale.ticks) parts.push(line(scale.at(tick), top, scale.at(tick), bottom, 'grid'))
    for (const { label: contender, value } of [...values].sort((a, b) => a.value - b.value)) {
      const middle = y + 18
      const x = scale.at(value)
      parts.push(
        text(left - 10, middle + 4, contender, '', 'end'),
        line(left, middle, WIDTH - 90, middle, 'grid'),
        `<circle cx="${round(x)}" cy="${middle}" r="5" class="${contender.startsWith('rowlock') ? 'ours' : 'theirs'}"/>`,
        text(x + 10, middle + 4, brief(value)),
      )
      y += row
    }
    y += 22
  }
  for (const tick of scale.ticks) parts.push(text(scale.at(tick), y, brief(tick), 'quiet', 'middle'))
  return { name, svg: page(y + 16, title, parts) }
}

/** Lines of each series on logarithmic scales. */
export function lineChart(
  name: string,
  { title, x, y, figures, seriesOf = ({ contender }) => contender }: Lines,
): Chart {
  const shown = figures.filter(({ metric }) => metric.endsWith(y))
  const points = shown.map((figure) => ({
    series: seriesOf(figure),
    x: Number.parseInt(figure.setting, 10),
    y: median(figure.rounds),
  }))
  const series = [...new Set(points.map((point) => point.series))]
  const bottom = 360
  const horizontal = logarithmic(
    points.map((point) => point.x),
    [70, WIDTH - 30],
  )
  const vertical = logarithmic(
    points.map((point) => point.y),
    [bottom, 60],
  )
  const parts = [
    ...vertical.ticks.flatMap((tick) => [
      line(70, vertical.at(tick), WIDTH - 30, vertical.at(tick), 'grid'),
      text(62, vertical.at(tick) + 4, brief(tick), 'quiet', 'end'),
    ]),
    ...[...new Set(points.map((point) => point.x))].map((tick) =>
      text(horizontal.at(tick), bottom + 18, brief(tick), 'quiet', 'middle'),
    ),
    text(WIDTH / 2, bottom + 36, x, 'quiet', 'middle'),
    text(16, 52, y, 'quiet'),
  ]
  series.forEach((label, index) => {
    const colour = COLOURS[index % COLOURS.length]
    const path = points
      .filter((point) => point.series === label)
      .sort((a, b) => a.x - b.x)
      .map((point) => `${round(horizontal.at(point.x))},${round(vertical.at(point.y))}`)
    const width = label.startsWith('rowlock') ? 3 : 1.5
    parts.push(
      `<polyline points="${path.join(' ')}" fill="none" stroke="${colour}" stroke-width="${width}"/>`,
      ...path.map(
        (point) => `<circle cx="${point.split(',')[0]}" cy="${point.split(',')[1]}" r="3" fill="${colour}"/>`,
      ),
    )
    const [column, legendRow] = [index % 3, Math.floor(index / 3)]
    const legendY = bottom + 62 + legendRow * 20
    parts.push(
      `<rect x="${70 + column * 245}" y="${legendY - 9}" width="14" height="${width * 3}" fill="${colour}"/>`,
      text(90 + column * 245, legendY, label),
    )
  })
  return { name, svg: page(bottom + 62 + Math.ceil(series.length / 3) * 20, title, parts) }
}

/** Three digits tell all that these measurements can. */
export function brief(value: number): string {
  if (!Number.isFinite(value)) return '-'
  if (value === 0) return '0'
  const digits = Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value))))
  return Number(value.toFixed(digits)).toLocaleString('en-US', { maximumFractionDigits: digits })
}

function logarithmic(values: readonly number[], [from, to]: [number, number]) {
  const positive = values.filter((value) => value > 0)
  const low = Math.log10(Math.min(...positive) / 1.4)
  const high = Math.log10(Math.max(...positive) * 1.4)
  const steps = high - low < 1.5 ? [1, 2, 5] : [1]
  const ticks: number[] = []
  for (let exponent = Math.floor(low); exponent <= Math.ceil(high); exponent++) {
    for (const step of steps) ticks.push(step * 10 ** exponent)
  }
  return {
    // What is zero has no logarithm, and is shown at the edge.
    at: (value: number) => from + ((Math.max(Math.log10(value), low) - low) / (high - low)) * (to - from),
    ticks: ticks.filter((tick) => Math.log10(tick) >= low && Math.log10(tick) <= high),
  }
}

function page(height: number, title: string, parts: readonly string[]): string {
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" width="${WIDTH}" height="${height}" role="img">
<title>${escaped(title)}</title>
<style>${STYLE}
</style>
<rect class="page" width="100%" height="100%" rx="6"/>
${text(16, 28, title, 'title')}
${parts.join('\n')}
</svg>
`
}

function text(x: number, y: number, content: string, kind = '', anchor = 'start'): string {
  return `<text x="${round(x)}" y="${round(y)}" class="${kind}" text-anchor="${anchor}">${escaped(content)}</text>`
}

function line(x1: number, y1: number, x2: number, y2: number, kind: string): string {
  return `<line x1="${round(x1)}" y1="${round(y1)}" x2="${round(x2)}" y2="${round(y2)}" class="${kind}"/>`
}

function round(value: number): number {
  return Math.round(value * 10) / 10
}

function escaped(content: string): string {
  return content.replaceAll('&', '&amp;').replaceAll('<', '&lt;')
}
