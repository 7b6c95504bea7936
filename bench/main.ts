/** Measures rowlock against floors and peers: `npm run bench`, or `npm run bench -- --help`. */
import { readFile, writeFile } from 'node:fs/promises'
import { Command, InvalidArgumentError } from 'commander'
import { compile } from '../test/compiled.ts'
import { Bench, now, type Question } from './harness.ts'
import { describeMachine } from './machine.ts'
import { questions } from './questions/index.ts'
import { merge, printQuestion, printVerdicts, type Run, writeDocument } from './report.ts'
import { type Engine, engines, Servers } from './servers.ts'

interface Options {
  readonly quick: boolean
  readonly only?: readonly Question[]
  readonly engine?: readonly Engine[]
  readonly json?: string
  readonly from?: readonly string[]
  readonly write: boolean
}

const names = questions.map(({ name }) => name)

const options = new Command('npm run bench --')
  .description('Measures rowlock against the raw statements and other libraries, on servers that it starts.')
  .option('--quick', 'all questions, in less than two minutes', false)
  .option('--only <questions>', `some of them, separated by commas: ${names.join(', ')}`, (text) =>
    listed('question', text, names).map((name) => questions.find((question) => question.name === name)!),
  )
  .option('--engine <engines>', `only these, separated by commas: ${engines.join(', ')}`, (text) =>
    listed('engine', text, engines),
  )
  .option('--json <file>', 'write the raw numbers there')
  .option('--from <files...>', 'measure nothing: report what --json wrote, of several runs the latest of each question')
  .option('--write', 'write docs/benchmarks.md and its charts', false)
  .parse()
  .opts<Options>()

const run = options.from === undefined ? await measure(options) : merge(await Promise.all(options.from.map(readRun)))
if (options.from !== undefined) {
  for (const question of questions) {
    const figures = run.figures.filter((figure) => figure.question === question.name)
    if (figures.length > 0) printQuestion(question, figures)
  }
}
printVerdicts(run.figures)
if (options.json !== undefined) await writeFile(options.json, `${JSON.stringify(run, null, 1)}\n`)
if (options.write) await writeDocument('docs', run)

async function measure({ quick, only = questions, engine: asked }: Options): Promise<Run> {
  const startedAt = new Date().toISOString()
  const begun = now()
  const seconds = () => `${((now() - begun) / 1000).toFixed(0)} s`
  const plan = only.map((question) => ({
    question,
    // Who asks for an engine gets it, in the quick mode too.
    wanted: asked
      ? question.engines.full.filter((engine) => asked.includes(engine))
      : question.engines[quick ? 'quick' : 'full'],
  }))
  await compile('bench')
  const servers = new Servers()
  const bench = new Bench(servers, quick)
  try {
    await servers.start(engines.filter((engine) => plan.some(({ wanted }) => wanted.includes(engine))))
    const machine = describeMachine(servers.versions)
    for (const { question, wanted } of plan) {
      for (const engine of wanted) {
        console.error(`${seconds()}: ${question.name} on ${engine} ...`)
        await question.measure(bench, engine)
      }
      const figures = bench.figures.filter((figure) => figure.question === question.name)
      if (figures.length > 0) printQuestion(question, figures)
    }
    console.error(`measured in ${seconds()}`)
    return { startedAt, mode: quick ? 'quick' : 'full', machine, figures: bench.figures }
  } finally {
    await bench.close()
    await servers.stop()
  }
}

async function readRun(file: string): Promise<Run> {
  return JSON.parse(await readFile(file, 'utf8'))
}

function listed<Name extends string>(what: string, text: string, known: readonly Name[]): readonly Name[] {
  return text.split(',').map((part) => {
    const found = known.find((name) => name === part.trim())
    if (found === undefined) throw new InvalidArgumentError(`There is no ${what} ${part}.`)
    return found
  })
}
