import fc from 'fast-check'
import { afterAll, beforeAll, describe, it } from 'vitest'
import type { OpenEngine } from '../engines.ts'
import { enginesOnce } from '../race/one-per-engine.ts'
import { closeInstances, commands, openInstances, setUp, tearDown } from './machine.ts'

/** For longer runs: ROWLOCK_MACHINE_RUNS=1000. */
const RUNS = Number(process.env.ROWLOCK_MACHINE_RUNS ?? 40)
const LONGEST_RUN_MS = 60_000
const COMMANDS = 40

// PGlite has one connection, and transactions keep everybody else from it.
describe.each(enginesOnce.filter(({ connector }) => connector !== 'pglite'))('on $name', (engine) => {
  let database: OpenEngine
  let instances: Awaited<ReturnType<typeof openInstances>>

  beforeAll(async () => {
    database = await engine.open()
    instances = await openInstances(engine, database)
  })

  afterAll(async () => {
    await closeInstances(instances)
    await database.close()
  })

  // Another try would draw other commands.
  const options = { timeout: RUNS * LONGEST_RUN_MS, retry: 0 }
  it('locks do what the model says, whatever is asked of them in turn', options, () =>
    fc.assert(
      fc.asyncProperty(
        fc.commands(
          commands.map((command) => command(engine)),
          { maxCommands: COMMANDS, size: 'max' },
        ),
        async (asked) => {
          const state = setUp(instances)
          try {
            await fc.asyncModelRun(() => state, asked)
          } finally {
            await tearDown(state.model)
          }
        },
      ),
      { numRuns: RUNS },
    ),
  )
})
