import { expect, it } from 'vitest'
import { Batches, Load } from '../../src/process/store/batches.ts'

interface Item {
  readonly name: string
}

/** Answers as late as a statement of so many names would, and notes how many there were. */
function counted(sizes: number[], load: Load) {
  return new Batches<Item, void>(
    async (items) => {
      sizes.push(items.length)
      for (let turns = 3 + items.length / 40; turns > 0; turns--) await turn()
      return items.map(() => undefined)
    },
    { load },
  )
}

it('sends together what is asked in one turn, and a lone request at once', async () => {
  const sizes: number[] = []
  const batches = counted(sizes, new Load())
  const many = Array.from({ length: 40 }, (_, index) => batches.add({ name: `${index}` }))
  await Promise.all(many)
  const lone = batches.add({ name: 'lone' })
  await new Promise((resolve) => process.nextTick(resolve))
  expect(sizes).toEqual([40, 1])
  await lone
})

it('sends what is asked meanwhile when the statement under way is answered', async () => {
  const sizes: number[] = []
  const batches = counted(sizes, new Load())
  const first = batches.add({ name: 'first' })
  await turn()
  const others = ['second', 'third'].map((name) => batches.add({ name }))
  await turn()
  expect(sizes).toEqual([1])
  await Promise.all([first, ...others])
  expect(sizes).toEqual([1, 2])
})

it('has a name once, or shared several times, and each name in its order', async () => {
  const batchesSent: string[][] = []
  const batches = new Batches<Item & { readonly id: string }, void>(
    async (items) => {
      batchesSent.push(items.map(({ id }) => id))
      await turn()
      return items.map(() => undefined)
    },
    { isShared: ({ id }) => id.startsWith('shared') },
  )
  const ids = ['shared 1', 'shared 2', 'alone 3', 'shared 4', 'alone 5', 'alone 6']
  await Promise.all([...ids.map((id) => batches.add({ name: 'one', id })), batches.add({ name: 'other', id: 'other' })])
  expect(batchesSent).toEqual([['shared 1', 'shared 2', 'other'], ['alone 3'], ['shared 4'], ['alone 5'], ['alone 6']])
})

it.each([
  { callers: 64, parts: 1 },
  { callers: 256, parts: 2 },
  { callers: 1000, parts: 2 },
])('sends $callers callers who acquire and release in $parts', async ({ callers, parts }) => {
  const load = new Load()
  expect(await partsOf(callers, load, load)).toBeCloseTo(parts, 1)
  expect(load.size).toBe(0)
})

it('would send them in more, if who acquires did not count who releases', async () => {
  expect(await partsOf(256, new Load(), new Load())).toBeGreaterThan(2.5)
})

/** In how many statements so many callers acquire, or release, when they have done so for a while. */
async function partsOf(callers: number, acquiring: Load, releasing: Load): Promise<number> {
  const sizes: number[] = []
  const acquires = counted(sizes, acquiring)
  const releases = counted(sizes, releasing)
  await Promise.all(
    Array.from({ length: callers }, async (_, index) => {
      for (let cycle = 0; cycle < 60; cycle++) {
        await acquires.add({ name: `${index}` })
        await releases.add({ name: `${index}` })
      }
    }),
  )
  const settled = sizes.slice(sizes.length / 4, -sizes.length / 4)
  return (callers * settled.length) / settled.reduce((sum, size) => sum + size, 0)
}

function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve))
}
