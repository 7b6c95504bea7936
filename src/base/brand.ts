/**
 * Errors, adapters and the transactions of MemoryDatabase are told by symbols that all copies of this package share, not by their
 * classes: an application may well have two copies, if dependencies bring another version or a bundler takes one in.
 */
export function brand<Branded extends object>(object: Branded, name: string): Branded {
  return Object.assign(object, { [symbolOf(name)]: true })
}

export function isBranded(value: unknown, name: string): boolean {
  return typeof value === 'object' && value !== null && symbolOf(name) in value
}

/** Makes `instanceof` hold for what another copy's class of this name, or a subclass of that, has made. */
export function brandClass(brandedClass: new (...args: never[]) => object, name: string): void {
  // Not enumerable, so that nothing shows it.
  Object.defineProperty(brandedClass.prototype, symbolOf(name), { value: true })
  Object.defineProperty(brandedClass, Symbol.hasInstance, {
    value(this: unknown, value: unknown) {
      // Users' subclasses inherit this, but not the name.
      return this === brandedClass ? isBranded(value, name) : Function.prototype[Symbol.hasInstance].call(this, value)
    },
  })
}

function symbolOf(name: string): symbol {
  return Symbol.for(`rowlock.${name}`)
}
