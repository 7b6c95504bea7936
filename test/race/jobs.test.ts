import { randomInt } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, describe, expect, it, vi } from 'vitest'
import { freshName, type TestEngine } from '../engines.ts'
import { sharedEngines } from './one-per-engine.ts'
import { endProcesses, type Script, startScript } from './processes.ts'

afterAll(endProcesses)

/** ROWLOCK_SECONDS asks for more: ten minutes are 600. */
const SECONDS = Number(process.env.ROWLOCK_SECONDS ?? 8)
const HALF_A_MINUTE = 30_000

// Engines at the same time, because these tests wait more than they work; the tests of each one after the other.
describe.each(sharedEngines)('on $name', { concurrent: true, timeout: 120_000 + 3 * SECONDS * 1000 }, (engine) => {
  it.sequential('each second fires once, though clocks are half a minute off', async () => {
    const { instants, times } = await race(engine, 'cron')
    expect(times.filter((count) => count !== 1)).toEqual([])
    expect(instants).toEqual(instants.map((_, index) => instants[0]! + index * 1000))
  })

  it.sequential('each second of node-cron fires once, though clocks differ', async () => {
    const { times } = await race(engine, 'node-cron')
    expect(times.filter((count) => count !== 1)).toEqual([])
  })

  it.sequential('a run whose process is killed is taken up again, if it is to be at least once', async () => {
    const { instants } = await race(engine, 'every', 2)
    expect(instants).toEqual(instants.map((_, index) => instants[0]! + index * 5000))
  })

  it.sequential('under a lock for the length of the handler it fires on each of them, as this test sees', async () => {
    const { times } = await race(engine, 'lock')
    expect(times.filter((count) => count > 1).length).toBeGreaterThan(0)
  })
})

async function race(engine: TestEngine, way: 'cron' | 'every' | 'lock' | 'node-cron', kills = 0) {
  const open = await engine.open()
  try {
    const { sql } = open.connected
    await sql('create table fires (instant bigint not null, process bigint not null)')
    const name = freshName()
    const locks = await open.locks()
    const start = async (clockError: number) => {
      const script = startScript('jobs-script.ts', way, engine.connector, open.url, name, `${clockError}`)
      await script.untilLine('there')
      return script
    }
    // Those who go by their own clocks come to the same instant so much later: in a short run, after a second.
    const isByDatabase = way === 'cron' || way === 'every'
    const error = isByDatabase || SECONDS > 90 ? HALF_A_MINUTE : 1000
    const scripts: Script[] = await Promise.all([start(-error), start(0), start(error)])
    const fires = async () => {
      const counts = new Map<number, number>()
      for (const { instant } of await sql('select instant from fires')) {
        counts.set(Number(instant), (counts.get(Number(instant)) ?? 0) + 1)
      }
      return counts
    }
    for (let killed = 0; killed < kills; killed++) {
      // In the middle of a run.
      const runs = await vi.waitUntil(async () => (await locks.inspect(name))?.holder, {
        timeout: 60_000,
        interval: 20,
      })
      await sleep(randomInt(100, 800))
      const victim = scripts.find(({ pid }) => runs.endsWith(`:${pid}`))!
      scripts.splice(scripts.indexOf(victim), 1)
      victim.signal('SIGKILL')
      scripts.push(await start(randomInt(-HALF_A_MINUTE, HALF_A_MINUTE)))
      await vi.waitUntil(async () => (await fires()).size > killed, { timeout: 60_000, interval: 100 })
    }
    const enough = way === 'every' ? 3 : SECONDS
    await vi.waitUntil(async () => (await fires()).size >= enough, { timeout: 60_000 + SECONDS * 2000, interval: 200 })
    for (const script of scripts) script.signal('SIGTERM')
    const ends = await Promise.all(scripts.map(async (script) => [await script.ended, script.errors()]))
    expect(ends).toEqual(ends.map(() => [0, '']))
    const counts = [...(await fires())].sort(([one], [other]) => one - other)
    return { instants: counts.map(([instant]) => instant), times: counts.map(([, count]) => count) }
  } finally {
    await open.close()
  }
}
