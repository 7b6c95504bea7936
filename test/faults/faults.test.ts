import { describe, expect, inject, it } from 'vitest'
import { ghosts } from './ghosts.ts'
import { faultNames } from './nemesis.ts'
import { campaignReport, complaints } from './report.ts'
import { restarts } from './restarts.ts'
import { run, workNames } from './run.ts'
import { takeovers } from './takeovers.ts'
import type { EngineName } from './target.ts'

/** The bounded form of `npm run faults`: every kind of fault at least once on each engine. */

const served = inject('servers').map(({ name }) => name)
const isWanted = (engine: EngineName) => engine === 'sqlite' || served.some((name) => name === engine)
const wanted = (...engines: EngineName[]) => engines.filter(isWanted)

/** The schedule is the same each time, what it meets is not. `npm run faults` takes other seeds. */
const SEED = 5
const TTL_MS = 600

describe('guarded writes survive', { timeout: 120_000 }, () => {
  it.each(wanted('postgres18', 'mysql', 'mariadb', 'sqlite'))('every kind of fault on %s', async (engine) => {
    const lines: string[] = []
    const result = await run({
      engine,
      seed: SEED,
      durationMs: 16_000,
      faults: faultNames,
      work: workNames,
      // On one file, most faults concern everybody.
      everyMs: engine === 'sqlite' ? 700 : 300,
      workers: 4,
      ttlMs: TTL_MS,
      leastOfEachKind: 1,
      mostOvertakes: Number.POSITIVE_INFINITY,
      keep: false,
      print: (line) => lines.push(line),
    })
    expect(complaints(result), lines.join('\n')).toBe('')
  })
})

describe('campaigns', { timeout: 120_000 }, () => {
  it.each(wanted('postgres18', 'mysql'))('no acquire whose reply was cut leaves a ghost on %s', async (engine) => {
    const result = await ghosts({ engine, times: 20, ttlMs: TTL_MS })
    expect(result.violations, campaignReport(result)).toEqual([])
    expect(result.figures.cuts).toBeGreaterThanOrEqual(20)
  })

  it.each(wanted('postgres18', 'mysql'))('permits come back once, though replies are cut, on %s', async (engine) => {
    const result = await ghosts({ engine, times: 15, ttlMs: TTL_MS, permits: true })
    expect(result.violations, campaignReport(result)).toEqual([])
    expect(result.figures.cuts).toBeGreaterThanOrEqual(15)
  })

  it.each(wanted('postgres18', 'mariadb'))('no token repeats when %s is killed and restarted', async (engine) => {
    const result = await restarts({ engine, times: 3, ttlMs: TTL_MS })
    expect(result.violations, campaignReport(result)).toEqual([])
    expect(result.figures.grants).toBeGreaterThan(0)
  })

  it.each(wanted('postgres18', 'sqlite'))('locks of killed holders are taken over in time on %s', async (engine) => {
    const result = await takeovers({ engine, times: 10, ttlMs: TTL_MS })
    expect(result.violations, campaignReport(result)).toEqual([])
    expect(result.figures.takeovers).toBe(10)
  })

  it.each(wanted('postgres18', 'mysql', 'sqlite'))('permits of killed holders come back once on %s', async (engine) => {
    const result = await takeovers({ engine, times: 10, ttlMs: TTL_MS, permits: true })
    expect(result.violations, campaignReport(result)).toEqual([])
    expect(result.figures.takeovers).toBe(10)
  })
})
