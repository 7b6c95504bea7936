import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, expect, it, vi } from 'vitest'
import { fromMemory } from '../../src/adapters/memory.ts'
import { createLocks } from '../../src/index.ts'
import { freshName, type TestEngine } from '../engines.ts'
import { type Contest, type Report, startContest, violations } from './contest.ts'
import { enginesOnce } from './one-per-engine.ts'
import { endProcesses, startWorker } from './processes.ts'

const PROCESSES = 4
const CLIENTS = 64
const MS = 3000

afterEach(endProcesses)

it.each(enginesOnce)(
  `${CLIENTS} clients never hold one lock on $name at once, and its token rises with each grant`,
  async (engine) => {
    const open = await engine.open()
    let contests: Contest[] = []
    try {
      const name = freshName()
      contests = engine.shared
        ? await contestsInProcesses(engine, open.url, name)
        : [startContest(await open.locks(), name, CLIENTS)]
      await sleep(MS)
      await vi.waitUntil(async () => hasHadItAll(await Promise.all(contests.map((contest) => contest.report()))), {
        timeout: 60_000,
        interval: 250,
      })
      const reports = await Promise.all(contests.map((contest) => contest.stop()))

      expect(violations(reports)).toEqual([])
      const tokens = reports.flatMap((report) => report.tokens)
      expect(new Set(tokens).size).toBe(tokens.length)
    } finally {
      await Promise.allSettled(contests.map((contest) => contest.stop()))
      await open.close()
    }
  },
  120_000,
)

async function contestsInProcesses(engine: TestEngine, url: string, name: string): Promise<Contest[]> {
  const workers = await Promise.all(Array.from({ length: PROCESSES }, () => startWorker(engine, url)))
  await Promise.all(workers.map((worker) => worker.call('startContest', name, CLIENTS / PROCESSES)))
  return workers.map((worker) => ({
    report: () => worker.call('contestReport'),
    stop: () => worker.call('stopContest'),
  }))
}

/** Whether each process had its turn, and each way to lose a lock occurred. */
function hasHadItAll(reports: readonly Report[]): boolean {
  const sum = (count: (report: Report) => number) => reports.reduce((total, report) => total + count(report), 0)
  return (
    reports.every(({ tokens }) => tokens.length > 0) &&
    sum(({ claims }) => claims.length) > 20 &&
    sum(({ abandoned }) => abandoned) > 0 &&
    sum(({ takeovers }) => takeovers) > 0 &&
    sum(({ evictions }) => evictions.length) > 0
  )
}

it.each(enginesOnce)('of many who ask at once for a lock that never was, one gets it on $name', async (engine) => {
  const open = await engine.open()
  try {
    const instances = await Promise.all([open.locks(), open.locks(), open.locks()])
    for (let round = 0; round < 20; round++) {
      const name = freshName()
      const attempts = instances.flatMap((locks) => Array.from({ length: 4 }, () => locks.tryAcquire(name)))
      const leases = (await Promise.all(attempts)).filter((lease) => lease !== null)
      expect(leases).toHaveLength(1)
      await leases[0]?.release()
    }
  } finally {
    await open.close()
  }
})

it('many callers of one instance cause no warning', async () => {
  const warnings: Error[] = []
  const listener = (warning: Error) => warnings.push(warning)
  process.on('warning', listener)
  await using locks = createLocks(fromMemory())
  await Promise.all(Array.from({ length: CLIENTS }, () => locks.run('one name', {}, () => sleep(1))))
  process.off('warning', listener)
  expect(warnings).toEqual([])
})
