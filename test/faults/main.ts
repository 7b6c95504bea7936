import { randomInt } from 'node:crypto'
import { writeFile } from 'node:fs/promises'
import { Command, InvalidArgumentError, Option } from 'commander'
import { toMilliseconds } from '../../src/base/duration.ts'
import { compile } from '../compiled.ts'
import type { CampaignResult } from './campaign.ts'
import { ghosts } from './ghosts.ts'
import { type FaultName, faultNames } from './nemesis.ts'
import { campaignReport, commonErrors, complaints, summary, total } from './report.ts'
import { restarts } from './restarts.ts'
import { hasFailed, type RunResult, run, workNames } from './run.ts'
import { takeovers } from './takeovers.ts'
import { engineNames } from './target.ts'

const program = new Command('faults')
  .description('breaks processes, networks and servers while workers write under locks, and checks what is left')
  .showHelpAfterError()

program
  .command('run', { isDefault: true })
  .description('one run on each engine')
  .addOption(
    new Option('--engine <names>', `of ${engineNames.join(', ')}; several with commas`)
      .argParser(listOf('engine', engineNames))
      .default([...engineNames], 'all'),
  )
  .option('--duration <time>', 'how long the nemesis is at work on each engine', toDuration, 60_000)
  .addOption(
    new Option('--seed <number>', 'repeats a schedule').argParser(toNumber).default(randomInt(2 ** 31), 'a new one'),
  )
  .addOption(
    new Option('--faults <kinds>', `of: ${faultNames.join(', ')}; several with commas`)
      .argParser(listOf('fault', faultNames))
      .default([...faultNames], 'all that the engine can have'),
  )
  .addOption(
    new Option('--without <kinds>', 'faults to leave out').argParser(listOf('fault', faultNames)).default([], 'none'),
  )
  .addOption(
    new Option('--work <kinds>', `of: ${workNames.join(', ')}`)
      .argParser(listOf('kind of work', workNames))
      .default([...workNames], 'all'),
  )
  .option('--every <time>', 'mean time between two faults', toDuration, 1200)
  .option('--workers <number>', 'worker processes', toNumber, 5)
  .option('--ttl <time>', 'of the leases', toDuration, 1000)
  .option('--least <number>', 'how often each kind of fault must happen', toNumber, 1)
  .addOption(
    new Option('--overtakes <number>', 'how many later callers may be served before one that waits')
      .argParser(toNumber)
      .default(Number.POSITIVE_INFINITY, 'any number, which is reported'),
  )
  .option('--keep', 'keep histories and logs of runs that succeed, too', false)
  .option('--json <file>', 'write the figures there')
  .action(async (options) => {
    const results: RunResult[] = []
    for (const engine of options.engine) {
      const result = await run({
        engine,
        seed: options.seed,
        durationMs: options.duration,
        faults: options.faults.filter((kind: FaultName) => !options.without.includes(kind)),
        work: options.work,
        everyMs: options.every,
        workers: options.workers,
        ttlMs: options.ttl,
        leastOfEachKind: options.least,
        mostOvertakes: options.overtakes,
        keep: options.keep,
        print: console.log,
      })
      results.push(result)
      console.log(commonErrors(result))
      if (hasFailed(result)) console.log(complaints(result))
    }
    if (options.json !== undefined) await writeFile(options.json, `${JSON.stringify(results, null, 2)}\n`)
    console.log(summary(results))
    console.log(total(results))
    for (const result of results.filter(hasFailed)) console.log(complaints(result))
    if (results.some(hasFailed)) process.exitCode = 1
  })

for (const [name, [campaign, what, usual]] of Object.entries({
  ghosts: [ghosts, 'replies to acquires are cut after the server has granted the lock', 10_000],
  restarts: [restarts, 'the server is killed and started again', 200],
  takeovers: [takeovers, 'holders are killed while others wait', 200],
} as const)) {
  program
    .command(name)
    .description(what)
    .requiredOption('--engine <names>', 'several with commas, or all', listOf('engine', engineNames))
    .option('--times <number>', 'how often', toNumber, usual)
    .option('--ttl <time>', 'of the leases', toDuration, 1000)
    .option('--permits', 'of semaphores, not of locks', false)
    .option('--json <file>', 'write the figures there')
    .action(async ({ engine: engines, times, ttl: ttlMs, permits, json }) => {
      const results: CampaignResult[] = []
      for (const engine of engines) {
        results.push(await campaign({ engine, times, ttlMs, permits }))
        console.log(campaignReport(results.at(-1)!))
      }
      if (json !== undefined) await writeFile(json, `${JSON.stringify(results, null, 2)}\n`)
      if (results.some(({ violations }) => violations.length > 0)) process.exitCode = 1
    })
}

await compile()
await program.parseAsync()

function listOf<Name extends string>(what: string, names: readonly Name[]): (text: string) => Name[] {
  return (text) => {
    if (text === 'all') return [...names]
    const wanted = text.split(',').map((each) => each.trim())
    const unknown = wanted.find((each) => !names.some((name) => name === each))
    if (unknown !== undefined) throw new InvalidArgumentError(`There is no ${what} '${unknown}'.`)
    return names.filter((name) => wanted.includes(name))
  }
}

function toDuration(text: string): number {
  try {
    return toMilliseconds('time', text as `${number}ms`, { min: 1 })
  } catch (error) {
    throw new InvalidArgumentError((error as Error).message)
  }
}

function toNumber(text: string): number {
  const number = Number(text)
  if (!(number >= 0)) throw new InvalidArgumentError('It must be a number of at least 0.')
  return number
}
