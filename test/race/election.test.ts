import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, describe, expect, it, vi } from 'vitest'
import { freshName, type TestEngine } from '../engines.ts'
import { sharedEngines } from './one-per-engine.ts'
import { endProcesses, type Script, startScript } from './processes.ts'

afterAll(endProcesses)

const TTL_MS = 700
const CANDIDATES = 3
const ROUNDS = 3
/** Much longer than the ttl. */
const PATIENCE_MS = 6000

const KEY: { readonly [Engine in TestEngine['engine']]?: string } = {
  postgres: 'id bigserial primary key',
  mysql: 'id bigint auto_increment primary key',
  sqlite: 'id integer primary key autoincrement',
}

// Engines at the same time, because these tests wait more than they work; the tests of each one after the other.
describe.each(sharedEngines)('on $name', { concurrent: true, timeout: 120_000 }, (engine) => {
  it.sequential('leaders that are killed, or stand still, never write after a later one', async () => {
    const { tokens, leaders } = await race(engine, 'guarded')
    expect(leaders).toBeGreaterThan(ROUNDS)
    expect([...tokens].sort((one, other) => one - other)).toEqual(tokens)
  })

  it.sequential('without the guard they do, as this test sees', async () => {
    const { tokens } = await race(engine, 'unguarded')
    expect([...tokens].sort((one, other) => one - other)).not.toEqual(tokens)
  })
})

/** The tokens under which was written, in the order of the writes. */
async function race(engine: TestEngine, way: 'guarded' | 'unguarded') {
  const open = await engine.open()
  try {
    const { sql } = open.connected
    await sql(`create table writes (${KEY[engine.engine]}, token bigint not null)`)
    const locks = await open.locks()
    const name = freshName()
    const start = async () => {
      const script = startScript('election-script.ts', way, engine.connector, open.url, name, `${TTL_MS}`)
      await script.untilLine('there')
      return script
    }
    let scripts: Script[] = []
    for (let candidate = 0; candidate < CANDIDATES; candidate++) scripts.push(await start())
    const leader = async () => {
      const holder = (await locks.inspect(name))?.holder
      return scripts.find(({ pid }) => holder?.endsWith(`:${pid}`))
    }
    const anotherLeads = (before: Script, timeout = 60_000) =>
      vi.waitUntil(
        async () => {
          const now = await leader()
          return now !== undefined && now !== before ? now : undefined
        },
        { timeout, interval: 10 },
      )
    for (let round = 0; round < ROUNDS; ) {
      const stopped = await vi.waitUntil(leader, { timeout: 60_000, interval: 10 })
      stopped!.signal('SIGSTOP')
      // In the middle of a guarded transaction it keeps its place until that ends.
      const second = await anotherLeads(stopped!, PATIENCE_MS).catch(() => undefined)
      await sleep(100)
      stopped!.signal('SIGCONT')
      await sleep(100)
      if (second === undefined) continue
      round++
      if (way === 'unguarded') continue
      second.signal('SIGKILL')
      scripts = scripts.filter((script) => script !== second)
      await anotherLeads(second)
      scripts.push(await start())
    }
    for (const script of scripts) script.signal('SIGTERM')
    const ends = await Promise.all(scripts.map(async (script) => [await script.ended, script.errors()]))
    expect(ends).toEqual(ends.map(() => [0, '']))
    const tokens = (await sql('select token from writes order by id')).map(({ token }) => Number(token))
    return { tokens, leaders: new Set(tokens).size }
  } finally {
    await open.close()
  }
}
