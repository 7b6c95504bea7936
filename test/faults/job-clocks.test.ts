import { describe, expect, inject, it, vi } from 'vitest'
import { createLocks } from '../../src/index.ts'
import { connectors } from '../adapters.ts'
import { migrate, startTarget } from './target.ts'

/** Jobs of a server whose clock is set, ahead and back, while they run. */

const wanted = inject('servers')
  .map(({ name }) => name)
  .filter((name) => name === 'postgres18' || name === 'mysql')

const SECOND_MS = 1000
/** How far it is set, in seconds: within what a cron may be late, and far beyond. */
const STEPS = [3, 3600, -2, 90, -4]

describe('jobs when the clock of the server is set', { timeout: 180_000 }, () => {
  it.each(wanted)('run at no instant twice, and go on, on %s', async (engine) => {
    const target = await startTarget(engine, { clock: true })
    await migrate(target)
    const connector = target.dialect === 'postgres' ? connectors.pg : connectors.mysql2
    const connections = [connector(target.urls[0]), connector(target.urls[0])]
    try {
      const instances = connections.map(({ adapter }) => createLocks(adapter, { statementTimeout: '20s' }))
      const runs = { cron: [] as number[], every: [] as number[] }
      const failures: unknown[] = []
      for (const locks of instances) locks.on((event) => event.type === 'error' && failures.push(event.cause))
      const jobs = instances.flatMap((locks) => [
        locks.cron('* * * * * *', 'cron', {}, ({ scheduledAt }) => runs.cron.push(scheduledAt.getTime())),
        locks.every('1s', 'every', { guarantee: 'at-least-once' }, ({ scheduledAt }) =>
          runs.every.push(scheduledAt.getTime()),
        ),
      ])
      const goOn = async () => {
        const [cron, every] = [runs.cron.length, runs.every.length]
        await vi.waitUntil(() => runs.cron.length > cron + 1 && runs.every.length > every + 1, {
          timeout: 30_000,
          interval: 20,
        })
      }
      await goOn()
      for (const seconds of STEPS) {
        await target.advanceClock!(seconds)
        await goOn()
      }
      await Promise.all(jobs.map((job) => job.stop()))
      await Promise.all(instances.map((locks) => locks.close()))
      // A lease may have run out by the new time.
      expect(failures.filter((failure) => (failure as { code?: string }).code !== 'LOCK_LOST')).toEqual([])
      for (const instants of Object.values(runs)) {
        expect(new Set(instants).size).toBe(instants.length)
        expect([...instants].sort((one, other) => one - other)).toEqual(instants)
        for (const instant of instants) expect(instant % SECOND_MS).toBe(0)
      }
      // What was jumped over by a little is taken late, and what was by much is not.
      const gaps = runs.cron.slice(1).map((instant, index) => (instant - runs.cron[index]!) / SECOND_MS)
      expect(gaps.filter((gap) => gap > 1)).toHaveLength(STEPS.filter((seconds) => seconds > 10).length)
    } finally {
      for (const connection of connections) await connection.close()
      await target.stop()
    }
  })
})
