import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import * as lockRow from '../../src/protocol/lock-row.ts'
import type { OpenEngine, TestEngine } from '../engines.ts'
import { enginesOnce } from '../race/one-per-engine.ts'
import { type Bench, openBench } from './bench.ts'
import { BROKEN_RULES } from './broken-rules.ts'
import { type Command, command, SELDOM } from './commands.ts'
import { Comparison } from './comparison.ts'
import { titlesOf } from './differences.ts'
import type { SqlEngine } from './lock-table.ts'
import type { Rules } from './model.ts'

/**
 * For longer runs: ROWLOCK_DIFFERENTIAL_RUNS=5000, which draw other commands each time. A failure tells its seed, by which
 * ROWLOCK_DIFFERENTIAL_SEED draws the same commands again.
 */
const { ROWLOCK_DIFFERENTIAL_RUNS: WANTED_RUNS, ROWLOCK_DIFFERENTIAL_SEED: WANTED_SEED } = process.env
const SEED = 1
/** About ten seconds. */
const RUNS: Record<SqlEngine, number> = { postgres: 250, mysql: 150, sqlite: 1000 }
/** So many runs meet whatever is in the table of differences. */
const THOROUGH_RUNS = 2000
const COMMANDS = 100
const LONGEST_RUN_MS = 60_000

/** Answers that all engines must have given somewhere, or the runs prove little. */
const REACHED = [
  ...['granted', 'granted, takeover', 'holders', 'queued'].map((reply) => `acquire: ${reply}`),
  ...['queued', 'full', 'missing'].map((reply) => `enqueue: ${reply}`),
  ...['withdrawn', 'withdrawn, grants'].map((reply) => `withdraw: ${reply}`),
  ...['null', 'nothing', 'holders', 'promotable, leasesWait, tickets'].map((reply) => `poll: ${reply}`),
  ...['handed over, grants', 'held', 'idle'].map((reply) => `promote: ${reply}`),
  ...['released', 'released, handedOver, grants', 'lost'].map((reply) => `release: ${reply}`),
  ...['renewed', 'lost'].map((reply) => `renew: ${reply}`),
  ...['released', 'free'].map((reply) => `forceRelease: ${reply}`),
  ...['null', 'holders'].map((reply) => `inspect: ${reply}`),
  ...['true', 'false'].map((reply) => `purge: ${reply}`),
  ...['granted', 'holders', 'queued'].map((reply) => `acquireIn: ${reply}`),
  ...['stands', 'lost'].map((reply) => `guard: ${reply}`),
  ...['awaited', 'nothing', 'lost'].map((reply) => `releaseIn: ${reply}`),
  ...['nothing'].map((reply) => `acquire: ${reply}`),
  ...['unfit'].map((reply) => `enqueue: ${reply}`),
  ...['withdrawn, promotable'].map((reply) => `withdraw: ${reply}`),
  ...['downgraded', 'downgraded, grants', 'lost'].map((reply) => `downgrade: ${reply}`),
  ...['nothing', 'lock'].map((reply) => `openSemaphore: ${reply}`),
  ...['resized', 'resized, grants', 'lock'].map((reply) => `resize: ${reply}`),
  ...['null', 'lock', '0', '1'].map((reply) => `available: ${reply}`),
  ...['stands', 'lost'].map((reply) => `adoptIn: ${reply}`),
]

describe.each(enginesOnce.filter(({ engine }) => engine !== 'memory'))('on $name', (engine) => {
  const opened = benchOn(engine)
  const runs = Number(WANTED_RUNS ?? RUNS[engine.engine as SqlEngine])

  // Another try would draw other commands.
  it('every verb does what lock-row.ts says', { timeout: runs * LONGEST_RUN_MS, retry: 0 }, async () => {
    const { bench } = opened
    const reached = new Set<string>()
    const met = new Set<string>()
    await fc.assert(
      comparisons(bench, lockRow, (comparison) => {
        for (const each of comparison.reached) reached.add(each)
        for (const each of comparison.met) met.add(each)
      }),
      parameters(runs),
    )
    if (runs >= RUNS[bench.engine]) expect(REACHED.filter((each) => !reached.has(each))).toEqual([])
    // What makes no difference is not to be in the table. Where there is one connection, much cannot be asked.
    if (runs >= THOROUGH_RUNS && !bench.single) expect([...met].sort()).toEqual(titlesOf(bench.engine).sort())
  })
})

describe.each(enginesOnce.filter(({ connector }) => connector === 'better-sqlite3'))(
  'compared with $name',
  (engine) => {
    const opened = benchOn(engine)

    it.each(BROKEN_RULES)('a lock-row.ts in which $what is found out', async ({ rules }) => {
      const broken: Rules = { ...lockRow, ...rules }
      const { failed } = await fc.check(comparisons(opened.bench, broken), {
        ...parameters(RUNS.sqlite),
        endOnFailure: true,
      })
      expect(failed).toBe(true)
    })
  },
)

function comparisons(bench: Bench, rules: Rules, note: (comparison: Comparison) => void = () => undefined) {
  return fc.asyncProperty(fc.array(command, { maxLength: COMMANDS, size: 'max' }), async (commands) => {
    const comparison = new Comparison(bench, rules)
    await comparison.run(commands)
    note(comparison)
  })
}

function parameters(numRuns: number): fc.Parameters<[Command[]]> {
  const seed = WANTED_SEED ?? (WANTED_RUNS === undefined ? SEED : undefined)
  return { numRuns, examples: [[SELDOM]], ...(seed !== undefined && { seed: Number(seed) }) }
}

function benchOn(engine: TestEngine): { readonly bench: Bench } {
  let database: OpenEngine
  let bench: Bench

  beforeAll(async () => {
    database = await engine.open()
    bench = await openBench(engine, database)
  })

  afterAll(async () => {
    await bench.close()
    await database.close()
  })

  return {
    get bench() {
      return bench
    },
  }
}
