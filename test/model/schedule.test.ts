import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { SqlAdapter } from '../../src/adapters/adapter.ts'
import { createLocks, type Lease, LockLostError, type Locks } from '../../src/index.ts'
import type { Connected } from '../adapters.ts'
import { eventually } from '../contract/harness.ts'
import { freshName, type OpenEngine } from '../engines.ts'
import { enginesOnce } from '../race/one-per-engine.ts'
import { routed } from '../statements.ts'

/** For longer runs: ROWLOCK_MACHINE_RUNS=1000. */
const RUNS = Number(process.env.ROWLOCK_MACHINE_RUNS ?? 40)
const LONGEST_RUN_MS = 60_000
const INSTANCES = 3
const LOCKS = 2
const CALLERS = 16

interface Caller {
  readonly instance: number
  readonly lock: number
  readonly wants: 'to wait' | 'to try' | 'to wait and give up' | 'to wait and write'
}

const callers = fc.array(
  fc.record({
    instance: fc.nat(INSTANCES - 1),
    lock: fc.nat(LOCKS - 1),
    wants: fc.constantFrom<Caller['wants']>('to wait', 'to try', 'to wait and give up', 'to wait and write'),
  }),
  { maxLength: CALLERS, size: 'max' },
)

describe.each(enginesOnce.filter(({ connector }) => connector !== 'pglite' && connector !== 'memory'))(
  'on $name',
  (engine) => {
    let database: OpenEngine
    let connections: Connected[]
    let instances: Locks<unknown>[]
    let scheduler: fc.Scheduler | undefined

    /** Statements are sent, and their replies arrive, when the schedule of this run says so. */
    function scheduled(adapter: SqlAdapter<unknown>): SqlAdapter<unknown> {
      const turn = (what: string) => scheduler?.schedule(Promise.resolve(), what)
      return routed(adapter, async (_, forward) => {
        await turn('request')
        const result = await forward()
        await turn('reply')
        return result
      })
    }

    beforeAll(async () => {
      database = await engine.open()
      connections = []
      for (let index = 0; index < INSTANCES; index++) connections.push(await database.connect())
      const options = { ttl: '10m', wait: '10m', statementTimeout: '30s' } as const
      instances = connections.map(({ adapter }) => createLocks(scheduled(adapter as SqlAdapter<unknown>), options))
    })

    afterAll(async () => {
      scheduler = undefined
      await Promise.all(instances.map((instance) => instance.close()))
      await database.close()
    })

    it(
      'locks exclude, are served and are not leaked, in whatever order things arrive',
      {
        timeout: RUNS * LONGEST_RUN_MS,
        // Another try would draw other schedules.
        retry: 0,
      },
      () =>
        fc.assert(
          fc.asyncProperty(fc.scheduler(), callers, async (schedule, asked) => {
            scheduler = schedule
            const locks = Array.from({ length: LOCKS }, () => ({
              name: freshName(),
              holder: null as Lease<unknown> | null,
              last: 0n,
            }))
            const writes: { lock: number; token: bigint }[] = []
            const turn = (what: string) => schedule.schedule(Promise.resolve(), what)

            const use = async ({ instance, lock, wants }: Caller, lease: Lease<unknown>) => {
              const state = locks[lock]!
              expect(state.holder?.isHeld() ?? false).toBe(false)
              expect(lease.token).toBeGreaterThan(state.last)
              state.holder = lease
              state.last = lease.token
              await turn('work')
              // A hand-off whose renewal the schedule keeps back until it cannot be confirmed any more is lost, but no other.
              const end = performance.now() + lease.remainingMs()
              try {
                if (wants === 'to wait and write') {
                  await connections[instance]!.transaction(async (tx) => {
                    await lease.guard(tx)
                    writes.push({ lock, token: lease.token })
                  })
                }
                state.holder = null
                if (!(await lease.release())) expect(performance.now()).toBeGreaterThan(end)
              } catch (error) {
                if (!(error instanceof LockLostError)) throw error
                expect(performance.now()).toBeGreaterThan(end)
              }
            }

            const call = async (caller: Caller) => {
              const { name } = locks[caller.lock]!
              const instance = instances[caller.instance]!
              await turn('call')
              if (caller.wants === 'to try') {
                const lease = await instance.tryAcquire(name)
                return lease && use(caller, lease)
              }
              const abort = new AbortController()
              const acquiring = instance.acquire(name, { signal: abort.signal })
              if (caller.wants === 'to wait and give up') void turn('abort').then(() => abort.abort('given up'))
              const lease = await acquiring.catch((reason: unknown) => {
                expect(reason).toBe('given up')
                return null
              })
              return lease && use(caller, lease)
            }

            try {
              await schedule.waitFor(Promise.all(asked.map(call)))
            } finally {
              scheduler = undefined
              await schedule.waitIdle()
            }
            for (const [index, { name }] of locks.entries()) {
              const tokens = writes.flatMap(({ lock, token }) => (lock === index ? [token] : []))
              expect(tokens).toEqual([...tokens].sort((a, b) => Number(a - b)))
              await eventually(async () => {
                const lease = await instances[0]!.tryAcquire(name)
                expect(await lease?.release()).toBe(true)
              })
            }
          }),
          { numRuns: RUNS },
        ),
    )
  },
)
