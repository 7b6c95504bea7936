import { randomInt } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import Database from 'better-sqlite3'
import { sqliteStore } from '../../src/engines/sqlite/store.ts'
import { withRetries } from '../../src/process/store/retries.ts'
import { newOwner } from '../../src/protocol/ids.ts'
import { connectors } from '../adapters.ts'
import { CLIENTS, LEDGER, PERMITS } from './permits.ts'

/** Takes permits again and again, on several connections; or what its own count says is there, without a lock. */
const [way, path, ledgerPath, name, ms] = process.argv.slice(2) as ['store' | 'count', string, string, string, string]

const ledger = new Database(ledgerPath, { timeout: 20_000 })
const change = ledger.prepare<{ weight: number }>(LEDGER.change)
const granted = ledger.prepare(LEDGER.granted)

async function client(until: number): Promise<void> {
  const take = way === 'store' ? await byStore() : byCount()
  while (Date.now() < until) {
    const weight = randomInt(1, 4)
    const release = await take(weight)
    if (release !== null) {
      // What is taken by this book is taken at least.
      change.get({ weight })
      granted.run()
      await sleep(randomInt(6))
      change.get({ weight: -weight })
      await release()
    }
    await sleep(randomInt(4))
  }
}

type Take = (weight: number) => Promise<(() => Promise<unknown>) | null>

async function byStore(): Promise<Take> {
  const { adapter } = await connectors['better-sqlite3'](path)
  const store = withRetries(sqliteStore(adapter as never, {}), 20_000)
  return async (weight) => {
    const asked = { name, owner: newOwner(), weight, permits: PERMITS, ttlMs: 60_000, holder: 'test', session: null }
    const [result] = await store.acquire([asked])
    if (!result!.granted) return null
    const { token, slot } = result!
    return async () => {
      const [released] = await store.release([{ name, owner: asked.owner, token, slot: slot! }], '1')
      if (released!.outcome !== 'released') throw new Error(`the release was answered ${released!.outcome}`)
    }
  }
}

function byCount(): Take {
  const database = new Database(path, { timeout: 20_000 })
  database.exec('create table if not exists counted (id integer primary key, weight int not null)')
  const sum = database.prepare<[], { taken: number }>('select coalesce(sum(weight), 0) as taken from counted')
  const insert = database.prepare<[number], { id: number }>('insert into counted (weight) values (?) returning id')
  const remove = database.prepare('delete from counted where id = ?')
  return async (weight) => {
    if (sum.get()!.taken + weight > PERMITS) return null
    await sleep(1)
    const { id } = insert.get(weight)!
    return async () => remove.run(id)
  }
}

const until = Date.now() + Number(ms)
await Promise.all(Array.from({ length: CLIENTS }, () => client(until)))
