import { randomInt } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, describe, expect, it } from 'vitest'
import { freshName, type TestEngine } from '../engines.ts'
import { sharedEngines } from './one-per-engine.ts'
import { endProcesses, startScript } from './processes.ts'

afterAll(endProcesses)

/** ROWLOCK_KEYS asks for more; 10,000 take minutes on each engine. */
const KEYS = Number(process.env.ROWLOCK_KEYS ?? 60)
const PROCESSES = 5
/** Others come in their place. */
const KILLS = Math.ceil(KEYS / 20)

// One engine after the other, since these tests work more than they wait.
describe.each(sharedEngines)('on $name', { timeout: 120_000 + KEYS * 200 }, (engine) => {
  for (const way of ['lease', 'transaction'] as const) {
    it(`what is to be done once is, though processes are killed at it: by a ${way}`, async () => {
      const { keys, done, told } = await race(engine, way, KILLS)
      // Everybody is told of the one value that was kept, in each life.
      for (const key of keys) {
        expect([key, new Set(told.get(key))]).toEqual([key, new Set([told.get(key)?.[0]])])
        if (way === 'transaction') expect([key, done.get(key)]).toEqual([key, [told.get(key)?.[0]]])
      }
    })
  }

  it.skipIf(engine.engine === 'sqlite')('looking before is not enough, as this test sees', async () => {
    const { keys, done } = await race(engine, 'look', 0)
    expect(keys.filter((key) => done.get(key)!.length > 1).length).toBeGreaterThan(0)
  })
})

async function race(engine: TestEngine, way: 'lease' | 'transaction' | 'look', kills: number) {
  const open = await engine.open()
  try {
    const { sql } = open.connected
    for (const table of ['done', 'told']) {
      await sql(`create table ${table} (entry varchar(255) not null, value varchar(64) not null)`)
    }
    const prefix = freshName()
    const start = async () => {
      const script = startScript('once-script.ts', way, engine.connector, open.url, prefix, `${KEYS}`)
      await script.untilLine('there')
      return script
    }
    const scripts = await Promise.all(Array.from({ length: PROCESSES }, start))
    for (const script of scripts) script.signal('SIGUSR2')
    for (let killed = 0; killed < kills; killed++) {
      await sleep(randomInt(100, 500))
      const victim = scripts[randomInt(scripts.length)]!
      victim.signal('SIGKILL')
      const next = await start()
      next.signal('SIGUSR2')
      scripts.push(next)
    }
    const ends = await Promise.all(scripts.map(async (script) => [await script.ended, script.errors()]))
    expect(ends.filter(([end]) => end !== 'SIGKILL' && end !== 0)).toEqual([])
    const keys = Array.from({ length: KEYS }, (_, index) => `${prefix}:${index}`)
    const valuesOf = async (table: string) => {
      const values = new Map<string, string[]>()
      for (const { entry, value } of await sql(`select entry, value from ${table}`)) {
        values.set(String(entry), [...(values.get(String(entry)) ?? []), String(value)])
      }
      return values
    }
    const [done, told] = [await valuesOf('done'), await valuesOf('told')]
    expect([...told.keys()].sort()).toEqual([...keys].sort())
    return { keys, done, told }
  } finally {
    await open.close()
  }
}
