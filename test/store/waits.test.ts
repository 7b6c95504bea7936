import { randomBytes } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Store, WAITS_FRESH_MS, WAITS_KEPT_MS } from '../../src/protocol/store.ts'
import { engines, type OpenEngine, type TestEngine } from '../engines.ts'
import { storeOn } from './store-on.ts'

/** Above what a database could take for an index, and with what could be taken for an end, or for a value. */
const WORDS = JSON.stringify([`né "quoted" 'twice' \\ ? $1 :name 🔒`, 'x'.repeat(200_000)])

describe.each(engines())('waits on $name', { timeout: 60_000 }, (engine) => {
  let database: OpenEngine
  let store: Store<unknown>
  let other: Store<unknown>

  beforeAll(async () => {
    database = await engine.open()
    store = storeOn((await database.connect()).adapter)
    other = storeOn((await database.connect()).adapter)
  })
  afterAll(() => database.close())

  /** What is told to a process that says nothing itself. */
  const told = async () => (await store.publishWaits(newProcess(), null)).others
  const of = (process: string) => expect.objectContaining({ process })
  /** Says it until it is told, should it have grown old in between. */
  const tells = (process: string, waits: string) =>
    expect
      .poll(async () => {
        await store.publishWaits(process, waits)
        return told()
      })
      .toContainEqual(of(process))

  it('are told to others, as they were said, and not to who said them', async () => {
    const [one, two] = [newProcess(), newProcess()]
    /** Both say something, and are told. */
    const exchange = async (ofOne: string, ofTwo: string) => {
      await store.publishWaits(one, ofOne)
      const toTwo = await other.publishWaits(two, ofTwo)
      return { toOne: (await store.publishWaits(one, ofOne)).others, toTwo: toTwo.others }
    }
    for (const [ofOne, ofTwo] of [
      ['one', WORDS],
      [WORDS, 'two'],
    ] as const) {
      // Again, should they have grown old meanwhile.
      await expect
        .poll(() => exchange(ofOne, ofTwo))
        .toEqual({
          toOne: [{ process: two, waits: ofTwo, saidAt: expect.any(Number) }],
          toTwo: [{ process: one, waits: ofOne, saidAt: expect.any(Number) }],
        })
    }
  })

  it('come with the time, and with that at which they were said, by one clock', async () => {
    const process = newProcess()
    const look = async () => {
      const before = (await store.publishWaits(newProcess(), null)).now
      await other.publishWaits(process, 'waits')
      const { now, others } = await store.publishWaits(newProcess(), null)
      return { before, saidAt: others.find((each) => each.process === process)?.saidAt, now }
    }
    let seen = await look()
    // Should it have grown old meanwhile.
    while (seen.saidAt === undefined) seen = await look()
    expect(seen.before).toBeLessThanOrEqual(seen.saidAt)
    expect(seen.saidAt).toBeLessThanOrEqual(seen.now)
    // Whatever zone the session is in.
    expect(Math.abs(seen.now - Date.now())).toBeLessThan(60_000)
  })

  it('are told no more when they were taken back, as often as that is asked', async () => {
    const process = newProcess()
    for (const waits of ['waits', 'waits again']) {
      await tells(process, waits)
      for (let times = 0; times < 2; times++) {
        await store.publishWaits(process, null)
        expect(await processes(database)).not.toContain(process)
        expect(await told()).not.toContainEqual(of(process))
      }
    }
  })

  it('are told for as long as they are fresh', async () => {
    const process = newProcess()
    await tells(process, 'waits')
    await makeOlder(engine, database, process, WAITS_FRESH_MS)
    expect(await told()).not.toContainEqual(of(process))
    await tells(process, 'waits still')
  })

  it('are purged when their process has not said them again for long, and that is not counted', async () => {
    const [fresh, old, another] = [newProcess(), newProcess(), newProcess()]
    for (const process of [fresh, old, another]) await store.publishWaits(process, 'waits')
    await makeOlder(engine, database, fresh, WAITS_KEPT_MS / 2)
    for (const process of [old, another]) await makeOlder(engine, database, process, WAITS_KEPT_MS)
    expect(await store.purge(0)).toBe(0)
    const kept = await processes(database)
    expect(kept).toContain(fresh)
    expect(kept).not.toContain(old)
    expect(kept).not.toContain(another)
  })

  /** A transaction on SQLite has the whole file. */
  it.runIf(engine.server !== undefined)(
    'are told, said and purged while somebody has those of others locked',
    async () => {
      const [process, old] = [newProcess(), newProcess()]
      for (const each of [process, old]) await store.publishWaits(each, 'waits')
      await makeOlder(engine, database, old, WAITS_KEPT_MS)
      const { sql, transaction } = database.connected
      await transaction(async (tx) => {
        await sql(`select 1 from rowlock_waits where process = '${process}' for update`, tx)
        await sql(`select 1 from rowlock_waits where process = '${old}' for update`, tx)
        const another = newProcess()
        for (const waits of ['waits', 'waits again', null]) await store.publishWaits(another, waits)
        await store.purge(0)
        expect(await processes(database)).toEqual(expect.arrayContaining([process, old]))
      }, 'read committed')
      await store.purge(0)
      expect(await processes(database)).not.toContain(old)
    },
  )

  it.runIf(engine.engine !== 'memory')('have no table before the migration', async () => {
    const { sql } = database.connected
    await sql('drop table rowlock_waits')
    await expect(store.publishWaits(newProcess(), 'waits')).rejects.toMatchObject({ code: 'NOT_MIGRATED' })
  })
})

function newProcess(): string {
  return (randomBytes(8).readBigInt64BE() >> 1n).toString()
}

const OLDER = {
  postgres: (ms: number) => `said_at - ${ms} * interval '1 ms'`,
  mysql: (ms: number) => `said_at - ${ms * 1000}`,
  sqlite: (ms: number) => `said_at - ${ms}`,
}

/** As if it had been said earlier. */
async function makeOlder({ engine }: TestEngine, { connected }: OpenEngine, process: string, ms: number) {
  const { adapter, sql } = connected
  if (engine !== 'memory') {
    await sql(`update rowlock_waits set said_at = ${OLDER[engine](ms)} where process = '${process}'`)
  } else if (adapter.engine === 'memory') {
    const said = adapter.database.waits.get(process)!
    adapter.database.waits.set(process, { ...said, saidAt: said.saidAt - ms })
  }
}

/** Those of whom something is stored. */
async function processes({ connected: { adapter, sql } }: OpenEngine): Promise<string[]> {
  if (adapter.engine === 'memory') return [...adapter.database.waits.keys()]
  return (await sql('select process from rowlock_waits')).map(({ process }) => `${process}`)
}
