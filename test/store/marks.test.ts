import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { newOwner } from '../../src/protocol/ids.ts'
import type { MarkKind, NewMark } from '../../src/protocol/marks.ts'
import { EXCLUSIVE, type Hold, type Store } from '../../src/protocol/store.ts'
import { engines, freshName, type OpenEngine, type TestEngine } from '../engines.ts'
import { storeOn } from './store-on.ts'

const MOST_TTL = 60_000
/** As JSON can be, with what could be taken for an end, or for a value. */
const JSON_TEXT = JSON.stringify([`né "quoted" 'twice' \\ ? $1 :name 🔒`, 'x'.repeat(60_000)])

describe.each(engines())('marks on $name', { timeout: 60_000 }, (engine: TestEngine) => {
  let database: OpenEngine
  let store: Store<unknown>
  let other: Store<unknown>

  beforeAll(async () => {
    database = await engine.open()
    store = storeOn((await database.connect()).adapter)
    other = storeOn((await database.connect()).adapter)
  })
  afterAll(() => database.close())

  async function acquire(name: string, ttlMs = MOST_TTL): Promise<Hold & { ttlMs: number }> {
    const owner = newOwner()
    const [result] = await store.acquire([{ ...EXCLUSIVE, name, owner, ttlMs, holder: 'test', session: null }])
    if (!result!.granted) throw new Error(`${name} is held`)
    return { name, owner, token: result!.token, ttlMs }
  }
  const marked = (name: string, rest: Partial<NewMark> = {}): NewMark => ({
    kind: 'job',
    name,
    part: '',
    value: '1',
    token: 1n,
    keepMs: null,
    ...rest,
  })
  const read = async (name: string, kind: MarkKind = 'job') => (await other.readMarks(kind, [name])).marks

  it('are read as they were written, of the kind and the names that were asked for', async () => {
    const [one, two, three] = [freshName(), freshName(), freshName()]
    await store.writeMark(marked(one, { value: JSON_TEXT }))
    await store.writeMark(marked(two, { value: null, part: 'b' }))
    await store.writeMark(marked(two, { value: '2', part: 'a', token: 2n ** 52n }))
    await store.writeMark(marked(two, { kind: 'once', value: '3' }))
    const { marks } = await other.readMarks('job', [one, two, three])
    expect(marks.toSorted((a, b) => (a.name + a.part < b.name + b.part ? -1 : 1)).map((each) => ({ ...each }))).toEqual(
      [
        { kind: 'job', name: one, part: '', value: JSON_TEXT, token: 1n },
        { kind: 'job', name: two, part: 'a', value: '2', token: 2n ** 52n },
        { kind: 'job', name: two, part: 'b', value: null, token: 1n },
      ]
        .toSorted((a, b) => (a.name + a.part < b.name + b.part ? -1 : 1))
        .map((each) => expect.objectContaining(each)),
    )
    expect(await read(three)).toEqual([])
  })

  it('come with the time of the database', async () => {
    const before = (await store.readMarks('job', [freshName()])).now
    await expect.poll(async () => (await other.readMarks('job', [freshName()])).now).toBeGreaterThan(before + 100)
  })

  it('replace those with a lower token, and no others', async () => {
    const name = freshName()
    await store.writeMark(marked(name, { token: 5n, value: '"five"' }))
    await store.writeMark(marked(name, { token: 4n, value: '"four"' }))
    await store.deleteMark(marked(name, { token: 4n }))
    expect(await read(name)).toEqual([expect.objectContaining({ value: '"five"', token: 5n })])
    await store.writeMark(marked(name, { token: 5n, value: '"again"' }))
    expect(await read(name)).toEqual([expect.objectContaining({ value: '"again"' })])
    await store.deleteMark(marked(name, { token: 5n }))
    expect(await read(name)).toEqual([])
  })

  it('are gone when their time is over, and are written anew then', async () => {
    const name = freshName()
    await store.writeMark(marked(name, { keepMs: 200 }))
    await expect.poll(() => read(name)).toEqual([])
    await store.purge(MOST_TTL)
    await store.writeMark(marked(name, { keepMs: 60_000 }))
    await store.purge(0)
    expect(await read(name)).toHaveLength(1)
  })

  it('are written under a hold that stands, and not under another', async () => {
    const name = freshName()
    const hold = await acquire(name)
    const { token } = hold
    expect(await store.writeMarkUnder({ ...hold, owner: newOwner() }, marked(name, { token }))).toBe('lost')
    expect(await store.writeMarkUnder({ ...hold, token: token - 1n }, marked(name, { token: token - 1n }))).toBe('lost')
    expect(await read(name)).toEqual([])
    expect(await store.writeMarkUnder(hold, marked(name, { token, value: null }))).toBe('written')
    expect(await store.writeMarkUnder(hold, marked(name, { token, value: '2' }))).toBe('written')
    expect(await read(name)).toEqual([expect.objectContaining({ value: '2', token })])
    await store.release([hold], 'process')
    expect(await store.writeMarkUnder(hold, marked(name, { token, value: '3' }))).toBe('lost')
    const next = await acquire(name)
    expect(await store.writeMarkUnder(hold, marked(name, { token, value: '3' }))).toBe('lost')
    expect(await store.writeMarkUnder(next, marked(name, { token: next.token, value: '4' }))).toBe('written')
    expect(await read(name)).toEqual([expect.objectContaining({ value: '4' })])
  })

  it('are not written under a hold that has run out', async () => {
    const name = freshName()
    const hold = await acquire(name, 50)
    await expect.poll(async () => (await store.inspect(name)) === null).toBe(true)
    expect(await store.writeMarkUnder(hold, marked(name, { token: hold.token }))).toBe('lost')
    expect(await read(name)).toEqual([])
  })

  it('begin in a transaction if there is none, and end with it', async () => {
    const name = freshName()
    const connected = await database.connect()
    const mine = storeOn(connected.adapter)
    const begin = (value: string) =>
      connected.transaction(async (tx) => {
        await mine.acquireIn(tx, { ...EXCLUSIVE, name, owner: newOwner(), ttlMs: null, holder: 't', session: null }, 0)
        const before = await mine.beginMarkIn(tx, marked(name, { value }))
        const again = await mine.beginMarkIn(tx, marked(name, { value: '"twice"' }))
        return [before?.value, again?.value]
      })
    await expect(
      connected.transaction(async (tx) => {
        await mine.beginMarkIn(tx, marked(name, { value: '"undone"' }))
        throw new Error('undo')
      }),
    ).rejects.toThrow('undo')
    expect(await read(name)).toEqual([])
    expect(await begin('"first"')).toEqual([undefined, '"first"'])
    expect(await begin('"second"')).toEqual(['"first"', '"first"'])
    expect(await read(name)).toEqual([expect.objectContaining({ value: '"first"' })])
    await connected.transaction(async (tx) => {
      await mine.writeMarkIn(tx, marked(name, { value: '"third"', keepMs: 100 }))
    })
    await expect.poll(() => read(name)).toEqual([])
    expect(await begin('"after its time"')).toEqual([undefined, '"after its time"'])
    await connected.transaction(async (tx) => {
      await mine.deleteMarkIn(tx, marked(name))
    })
    expect(await read(name)).toEqual([])
  })

  it('of checkpoints go with the row of their lock, and not before', async () => {
    const [name, unknown] = [freshName(), freshName()]
    const hold = await acquire(name)
    const mark = marked(name, { kind: 'checkpoint', token: hold.token })
    expect(await store.writeMarkUnder(hold, mark)).toBe('written')
    await store.writeMark(marked(unknown, { kind: 'checkpoint' }))
    await store.purge(MOST_TTL)
    expect(await read(unknown, 'checkpoint')).toHaveLength(1)
    await store.purge(0)
    expect(await read(name, 'checkpoint')).toHaveLength(1)
    await expect
      .poll(async () => {
        await store.purge(0)
        return read(unknown, 'checkpoint')
      })
      .toEqual([])
  })
})
