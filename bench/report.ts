import { mkdir, readdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import CliTable from 'cli-table3'
import { brief } from './chart.ts'
import { type Figure, groupBy, median, type Question, ratio } from './harness.ts'
import { questions } from './questions/index.ts'
import { sizeOfSource, type Verdict, verdicts } from './targets.ts'

/** All that one run, or several of its parts, found out. */
export interface Run {
  readonly startedAt: string
  readonly mode: 'quick' | 'full'
  readonly machine: Readonly<Record<string, string>>
  readonly figures: readonly Figure[]
}

interface Table {
  readonly columns: readonly string[]
  readonly rows: readonly (readonly string[])[]
}

/** Later runs replace what earlier ones said to the same question on the same engine. */
export function merge(runs: readonly Run[]): Run {
  const latest = new Map<string, readonly Figure[]>()
  for (const { figures } of runs) {
    const parts = groupBy(figures, ({ question, engine }) => `${question} ${engine}`)
    for (const [part, ofPart] of parts) latest.set(part, ofPart)
  }
  const last = runs.at(-1)
  if (last === undefined) throw new Error('there is nothing to merge')
  return {
    ...last,
    mode: runs.some(({ mode }) => mode === 'quick') ? 'quick' : 'full',
    machine: Object.assign({}, ...runs.map(({ machine }) => machine)),
    figures: [...latest.values()].flat(),
  }
}

/** What is known about one question, for a terminal. */
export function printQuestion(question: Question, figures: readonly Figure[]): void {
  console.log(`\n${question.title}`)
  print(tableOf(question, figures))
}

export function printVerdicts(figures: readonly Figure[]): void {
  console.log('\nTargets')
  print(targetTable([...verdicts(figures), sizeOfSource()]))
}

/** Writes the document and its charts, all of it from the run. */
export async function writeDocument(folder: string, run: Run): Promise<void> {
  const images = join(folder, 'benchmarks')
  await mkdir(images, { recursive: true })
  for (const file of await readdir(images)) if (file.endsWith('.svg')) await rm(join(images, file))
  const sections: string[] = []
  for (const question of questions) {
    const figures = run.figures.filter((figure) => figure.question === question.name)
    if (figures.length === 0) continue
    const charts = question.charts(figures)
    for (const { name, svg } of charts) await writeFile(join(images, `${name}.svg`), svg)
    sections.push(
      `## ${question.title}`,
      question.method,
      ...charts.map(({ name }) => `![${question.title}](benchmarks/${name}.svg)`),
      markdown(tableOf(question, figures)),
      `\`npm run bench -- --only ${question.name}\``,
    )
  }
  await writeFile(
    join(folder, 'benchmarks.md'),
    `${[...introduction(run), ...sections, ...rawNumbers(run)].join('\n\n')}\n`,
  )
}

function introduction(run: Run): string[] {
  return [
    '# Benchmarks',
    `Made by \`npm run bench -- --write\` on ${run.startedAt.slice(0, 10)}${run.mode === 'quick' ? ', in the quick mode, which is too short for more than orders of magnitude' : ''}; nothing here is written by hand. \`npm run bench -- --quick\` takes two minutes.`,
    '## What was to be reached',
    markdown(targetTable([...verdicts(run.figures), sizeOfSource()])),
    '## Method',
    [
      '- Everything runs on one machine, over loopback, on servers of its own with their default settings but for `max_connections`. Commits are durable: the run',
      '  ends with an error if `fsync`, `synchronous_commit`, `full_page_writes` or `innodb_flush_log_at_trx_commit` say otherwise. SQLite has WAL and `synchronous=FULL`. Redis',
      '  writes nothing to disk.',
      '- Contenders are measured in the same run, in turns: in each round every one of them, in another order than in the round before, so that noise of the machine hits all',
      "  alike. A figure is the median over the rounds, p99 is the median of the rounds' p99 (of a round with fewer than 100 samples: its largest). Trust ratios, not milliseconds.",
      '- A ratio is the median of the ratios of rounds, since what stands in one round was measured side by side. "x floor" compares with what the engine itself needs, "x rowlock" with',
      '  rowlock; for latencies, statements and memory less is better, for cycles per second more.',
      '- Statements are counted in the drivers, whichever library sent them. Times across processes are of the monotonic clock, which they share.',
      '- Peers have their own defaults, but for patience: none of them gives up waiting.',
    ].join('\n'),
    '## Machine',
    markdown({ columns: ['', ''], rows: Object.entries(run.machine) }),
  ]
}

function rawNumbers({ figures }: Run): string[] {
  const lines = figures.map(({ question, engine, setting, contender, metric, rounds }) =>
    [question, engine, setting, contender, metric, rounds.map((value) => Number(value.toPrecision(4))).join(' ')].join(
      '; ',
    ),
  )
  return [
    '## Raw numbers',
    'question; engine; setting; contender; metric; its value in each round',
    `<details><summary>${lines.length} figures</summary>\n\n\`\`\`text\n${lines.join('\n')}\n\`\`\`\n\n</details>`,
  ]
}

function tableOf({ compared, floors }: Question, figures: readonly Figure[]): Table {
  const metrics = [...new Set(figures.map(({ metric }) => metric))]
  const hasFloor = floors.some((floor) => figures.some(({ contender }) => contender === floor))
  const hasRowlock = figures.some(({ contender }) => isRowlock(contender))
  const groups = groupBy(figures, ({ engine, setting }) => `${engine}\n${setting}`)
  const rows = [...groups.values()].flatMap((group) => {
    const contenders = [...new Set(group.map(({ contender }) => contender))]
    const figureOf = (contender: string | undefined, metric: string) =>
      group.find((figure) => figure.contender === contender && figure.metric === metric)
    const floor = floors.find((name) => contenders.includes(name))
    const rowlock = contenders.find(isRowlock)
    return contenders.map((contender) => {
      const main = compared.map((metric) => figureOf(contender, metric)).find((figure) => figure !== undefined)
      const times = (base: string | undefined) => {
        const other = main && figureOf(base, main.metric)
        return main === undefined || other === undefined ? '' : brief(ratio(main, other))
      }
      const values = metrics.map((metric) => {
        const figure = figureOf(contender, metric)
        return figure === undefined ? '' : brief(median(figure.rounds))
      })
      const ratios = [...(hasFloor ? [times(floor)] : []), ...(hasRowlock ? [times(rowlock)] : [])]
      return [group[0]!.engine, group[0]!.setting, contender, ...values, ...ratios]
    })
  })
  const ratioColumns = [...(hasFloor ? ['x floor'] : []), ...(hasRowlock ? ['x rowlock'] : [])]
  return { columns: ['engine', 'setting', 'contender', ...metrics, ...ratioColumns], rows }
}

function isRowlock(contender: string): boolean {
  return contender.startsWith('rowlock')
}

function targetTable(found: readonly Verdict[]): Table {
  return {
    columns: ['figure', 'target', 'measured', 'measured / target', 'met', 'floor'],
    rows: found.map(({ figure, target, measured, ratio, met, floor }) => [
      figure,
      target,
      measured,
      brief(ratio),
      met ? 'yes' : 'no',
      floor,
    ]),
  }
}

function print({ columns, rows }: Table): void {
  const table = new CliTable({ head: [...columns], style: { head: [], border: [], compact: true } })
  table.push(...rows.map((row) => [...row]))
  console.log(table.toString())
}

function markdown({ columns, rows }: Table): string {
  return [columns, columns.map(() => '---'), ...rows].map((cells) => `| ${cells.join(' | ')} |`).join('\n')
}
